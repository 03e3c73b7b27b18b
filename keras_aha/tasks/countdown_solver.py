"""All ways of combining a few numbers, exactly: the shortest solution of a puzzle, and how rare its solutions are.

Both build a table of all values for each part of the numbers. Only for all numbers together there is no such table,
which would be too large for six: there each pair of values is looked up that one operation takes to the target.
"""

import itertools
import math
import operator
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from fractions import Fraction
from functools import cache
from typing import NamedTuple

MAX_NUMBERS = 6

_Value = int | Fraction


class _Texts(NamedTuple):
    """The shortest texts of one value: anywhere in a sum, as a term of one, as a factor of a product."""

    sum: str  # may stand left of `+` and `-`
    term: str  # may stand right of `+` and `-` too, and left of `*` and `/`
    factor: str  # may stand anywhere


def shortest_solution(numbers: Iterable[int], target: int) -> str | None:
    """Returns the expression with the fewest characters that makes `target`, the first in the alphabet among equals.

    Every number is used exactly once, with `+ - * / ( )` and no spaces. Unary minuses are tried for a negative
    target only: any other that can be reached with them can be reached with fewer characters without.

    Args:
        numbers: one to `MAX_NUMBERS` integers from 0; ValueError if there are more.
        target: any integer. If nothing makes it, `None` is returned.
    """
    numbers = _checked(numbers)

    @cache
    def tables(part: tuple[int, ...]) -> dict[_Value, _Texts]:
        sums, products, factors = {}, {}, {}
        if len(part) == 1:
            factors[part[0]] = str(part[0])
        for left, right in set(_splits(part)):
            for (a, texts), (b, others) in itertools.product(tables(left).items(), tables(right).items()):
                for place, (value, text) in enumerate(_joined(a, texts, b, others)):
                    _keep_shorter(sums if place < 2 else products, value, text)
        return _closed(sums, products, factors, signed=target < 0)

    if len(numbers) == 1:
        return tables(numbers)[target].sum if target in tables(numbers) else None
    best = {}
    for left, right in set(_splits(numbers)):
        lefts, rights = tables(left), tables(right)
        for a, b in _pairs_reaching(target, lefts, rights):
            for value, text in _joined(a, lefts[a], b, rights[b]):
                if value == target:
                    _keep_shorter(best, value, text)
    return best.get(target)


def difficulty(numbers: Iterable[int], target: int) -> int:
    """Returns how rare solutions are, in bits: the rounded -log2 of the share of expressions that make `target`.

    The share is of all n! · Catalan(n - 1) · 4^(n - 1) expressions without unary minus: every order of the
    numbers, every bracketing, every choice of operators; those that divide by zero make nothing. A target that no
    expression makes counts as one expression in twice as many as there are. For a negative target that needs a
    unary minus, the share is that of its opposite.

    Args:
        numbers: one to `MAX_NUMBERS` integers from 0; ValueError if there are more.
        target: any integer.
    """
    numbers = _checked(numbers)
    pairs = len(numbers) - 1
    total = math.factorial(2 * pairs) // math.factorial(pairs) * 4**pairs
    reaching = _count_reaching(numbers, target)
    if target < 0 and not reaching:
        reaching = _count_reaching(numbers, -target)
    return round(math.log2(total / (reaching or 0.5)))


def _count_reaching(numbers: tuple[int, ...], target: int) -> int:
    """How many expressions over all the numbers make the target."""

    @cache
    def counts(part: tuple[int, ...]) -> Counter:
        table = Counter(part if len(part) == 1 else ())
        for left, right in _splits(part):
            for (a, ways), (b, more) in itertools.product(counts(left).items(), counts(right).items()):
                for value in _results(a, b):
                    table[value] += ways * more
        return table

    if len(numbers) == 1:
        return counts(numbers)[target]
    total = 0
    for left, right in _splits(numbers):
        lefts, rights = counts(left), counts(right)
        for a, b in _pairs_reaching(target, lefts, rights):
            total += _results(a, b).count(target) * lefts[a] * rights[b]
    return total


def _checked(numbers: Iterable[int]) -> tuple[int, ...]:
    numbers = tuple(sorted(numbers))
    if len(numbers) > MAX_NUMBERS:
        raise ValueError(f"The solver takes at most {MAX_NUMBERS} numbers. Received: numbers={numbers}")
    return numbers


def _splits(numbers: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """All ordered ways of parting the numbers in two, one for each choice of places."""
    for is_left in itertools.product((True, False), repeat=len(numbers)):
        left = tuple(itertools.compress(numbers, is_left))
        right = tuple(itertools.compress(numbers, map(operator.not_, is_left)))
        if left and right:
            yield left, right


def _results(a: _Value, b: _Value) -> list[_Value]:
    """What `a` and `b` make by `+`, `-`, `*` and, unless `b` is 0, `/`."""
    return [a + b, a - b, a * b, _divide(a, b)] if b else [a + b, a - b, a * b]


def _divide(a: _Value, b: _Value) -> _Value:
    if isinstance(a, int) and isinstance(b, int) and a % b == 0:
        return a // b  # equal to the fraction, and faster
    quotient = Fraction(a, b)
    return quotient.numerator if quotient.denominator == 1 else quotient


def _pairs_reaching(target: int, lefts: Collection, rights: Collection) -> Iterator[tuple[_Value, _Value]]:
    """The pairs of values that one operation may take to the target; the other value of a pair is solved for."""
    swapped = len(lefts) > len(rights)
    few, many = (rights, lefts) if swapped else (lefts, rights)
    for value in few:
        partners = many
        if target:  # for 0 nothing can be solved: any value times 0 makes it
            wanted = {target - value, value - target, target + value, target * value}
            if value:
                wanted |= {_divide(target, value), _divide(value, target)}
            partners = wanted.intersection(many)
        for partner in partners:
            yield (partner, value) if swapped else (value, partner)


# === Writing ===


def _joined(a: _Value, a_texts: _Texts, b: _Value, b_texts: _Texts) -> Iterable[tuple[_Value, str]]:
    """The values of `_results` with their texts."""
    texts = (
        f"{a_texts.sum}+{b_texts.term}",
        f"{a_texts.sum}-{b_texts.term}",
        f"{a_texts.term}*{b_texts.factor}",
        f"{a_texts.term}/{b_texts.factor}",
    )
    return zip(_results(a, b), texts, strict=False)


def _closed(sums: dict, products: dict, factors: dict, signed: bool) -> dict[_Value, _Texts]:
    """Brackets make any text a factor; if signs are allowed, a minus before a factor makes another."""
    for made in (sums, products):
        for value, text in made.items():
            _keep_shorter(factors, value, f"({text})")
    if signed:
        for value, text in list(factors.items()):
            _keep_shorter(factors, -value, f"-{text}")
    table = {}
    for value, factor in factors.items():
        term = min(products.get(value, factor), factor, key=_length_first)
        table[value] = _Texts(min(sums.get(value, term), term, key=_length_first), term, factor)
    return table


def _keep_shorter(best: dict[_Value, str], value: _Value, text: str) -> None:
    old = best.get(value)
    if old is None or len(text) < len(old) or (len(text) == len(old) and text < old):
        best[value] = text


def _length_first(text: str) -> tuple[int, str]:
    return len(text), text
