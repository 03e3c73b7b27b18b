"""All ways of combining a few numbers, exactly: the shortest solution of a puzzle and how rare its solutions are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable
from fractions import Fraction

MAX_NUMBERS = 6

_Numbers = tuple[int, ...]
_Value = int | Fraction


def shortest_solution(numbers: Iterable[int], target: int) -> str | None:
    """Returns the expression with the fewest characters that makes `target`, the first in the alphabet among equals.

    Every number is used exactly once, with `+ - * / ( )` and no spaces. Unary minuses are tried for a negative
    target only: any other that can be reached with them can be reached with fewer characters without.

    Args:
        numbers: one to `MAX_NUMBERS` integers from 0.
        target: any integer.

    Returns:
        The expression, or `None` if there is none.

    Raises:
        ValueError: if there are more than `MAX_NUMBERS` numbers.
    """
    numbers = _checked(numbers)
    signed = target < 0
    if len(numbers) == 1:
        forms = _forms(numbers, signed, {}).get(target)
        return forms and forms[0]
    memo: dict[_Numbers, dict] = {}
    best: dict[_Value, str] = {}
    for left, right in set(_splits(numbers)):
        lefts, rights = _forms(left, signed, memo), _forms(right, signed, memo)
        for a, b in _pairs_reaching(target, lefts, rights):
            for value, text in _combined(a, lefts[a], b, rights[b]):
                if value == target:
                    _offer(best, value, text)
    return best.get(target)


def difficulty(numbers: Iterable[int], target: int) -> int:
    """Returns how rare solutions are, in bits: the rounded -log2 of the share of expressions that make `target`.

    The share is over all n! · Catalan(n - 1) · 4^(n - 1) expressions without unary minus: every order of the
    numbers, every bracketing, every choice of operators; those that divide by zero make nothing. A target that no
    expression makes counts as one expression in twice as many as there are. For a negative target that needs a
    unary minus, the share is that of its opposite.

    Args:
        numbers: one to `MAX_NUMBERS` integers from 0.
        target: any integer.

    Raises:
        ValueError: if there are more than `MAX_NUMBERS` numbers.
    """
    numbers = _checked(numbers)
    pairs = len(numbers) - 1
    total = math.factorial(2 * pairs) // math.factorial(pairs) * 4**pairs
    reaching = _count_reaching(numbers, target)
    if target < 0 and not reaching:
        reaching = _count_reaching(numbers, -target)
    return round(math.log2(total / (reaching or 0.5)))


def _checked(numbers: Iterable[int]) -> _Numbers:
    numbers = tuple(sorted(numbers))
    if len(numbers) > MAX_NUMBERS:
        raise ValueError(f"The solver takes at most {MAX_NUMBERS} numbers. Received: numbers={numbers}")
    return numbers


def _splits(numbers: _Numbers) -> list[tuple[_Numbers, _Numbers]]:
    """All ordered ways of parting the numbers in two, one for each choice of places."""
    parts = []
    for mask in range(1, 2 ** len(numbers) - 1):
        left = tuple(number for place, number in enumerate(numbers) if mask >> place & 1)
        right = tuple(number for place, number in enumerate(numbers) if not mask >> place & 1)
        parts.append((left, right))
    return parts


def _divide(a: _Value, b: _Value) -> _Value:
    if isinstance(a, int) and isinstance(b, int) and a % b == 0:
        return a // b  # equal to the fraction, and faster
    quotient = Fraction(a, b)
    return quotient.numerator if quotient.denominator == 1 else quotient


def _pairs_reaching(target: int, lefts: Collection, rights: Collection) -> Iterable[tuple[_Value, _Value]]:
    """The pairs of values that one operation may take to the target: solved for, so that no table of all is built."""
    swapped = len(lefts) > len(rights)
    few, many = (rights, lefts) if swapped else (lefts, rights)
    for value in few:
        partners = many
        if target:  # nothing can be solved for where a zero swallows its partner
            wanted = {target - value, value - target, target + value, target * value}
            if value:
                wanted |= {_divide(target, value), _divide(value, target)}
            partners = wanted.intersection(many)
        for partner in partners:
            yield (partner, value) if swapped else (value, partner)


# === Counting ===


def _count_reaching(numbers: _Numbers, target: int) -> int:
    if len(numbers) == 1:
        return int(numbers[0] == target)
    memo: dict[_Numbers, Counter] = {}
    total = 0
    for left, right in _splits(numbers):
        lefts, rights = _counts(left, memo), _counts(right, memo)
        for a, b in _pairs_reaching(target, lefts, rights):
            hits = (a + b == target) + (a - b == target) + (a * b == target) + bool(b and _divide(a, b) == target)
            total += hits * lefts[a] * rights[b]
    return total


def _counts(numbers: _Numbers, memo: dict[_Numbers, Counter]) -> Counter:
    """How many expressions over all the numbers have each value."""
    if numbers in memo:
        return memo[numbers]
    counts: Counter = Counter(numbers if len(numbers) == 1 else ())
    for left, right in _splits(numbers):
        rights = _counts(right, memo)
        for a, times in _counts(left, memo).items():
            for b, more in rights.items():
                ways = times * more
                counts[a + b] += ways
                counts[a - b] += ways
                counts[a * b] += ways
                if b:
                    counts[_divide(a, b)] += ways
    memo[numbers] = counts
    return counts


# === Writing ===


def _forms(numbers: _Numbers, signed: bool, memo: dict[_Numbers, dict]) -> dict[_Value, tuple[str, str, str]]:
    """The shortest text for each value that all the numbers can make: anywhere, as a term, as a factor.

    The first may stand left of `+` and `-`, the second right of them or left of `*` and `/`, the third anywhere.
    """
    if numbers in memo:
        return memo[numbers]
    sums: dict[_Value, str] = {}
    products: dict[_Value, str] = {}
    factors: dict[_Value, str] = {}
    if len(numbers) == 1:
        factors[numbers[0]] = str(numbers[0])
    for left, right in set(_splits(numbers)):
        rights = _forms(right, signed, memo)
        for a, a_forms in _forms(left, signed, memo).items():
            for b, b_forms in rights.items():
                for place, (value, text) in enumerate(_combined(a, a_forms, b, b_forms)):
                    _offer(sums if place < 2 else products, value, text)
    memo[numbers] = _closed(sums, products, factors, signed)
    return memo[numbers]


def _combined(a: _Value, a_forms: tuple, b: _Value, b_forms: tuple) -> list[tuple[_Value, str]]:
    """What `a` and `b` make by `+`, `-`, `*` and, where it can be done, `/`, in this order."""
    made = [
        (a + b, f"{a_forms[0]}+{b_forms[1]}"),
        (a - b, f"{a_forms[0]}-{b_forms[1]}"),
        (a * b, f"{a_forms[1]}*{b_forms[2]}"),
    ]
    if b:
        made.append((_divide(a, b), f"{a_forms[1]}/{b_forms[2]}"))
    return made


def _closed(sums: dict, products: dict, factors: dict, signed: bool) -> dict[_Value, tuple[str, str, str]]:
    """Brackets make any text a factor; where signs are allowed, a minus before a factor makes another."""
    for made in (sums, products):
        for value, text in made.items():
            _offer(factors, value, f"({text})")
    if signed:
        for value, text in list(factors.items()):
            _offer(factors, -value, f"-{text}")
    forms = {}
    for value, factor in factors.items():
        term = min(products.get(value, factor), factor, key=_length_first)
        forms[value] = min(sums.get(value, term), term, key=_length_first), term, factor
    return forms


def _offer(best: dict[_Value, str], value: _Value, text: str) -> None:
    old = best.get(value)
    if old is None or len(text) < len(old) or (len(text) == len(old) and text < old):
        best[value] = text


def _length_first(text: str) -> tuple[int, str]:
    return len(text), text
