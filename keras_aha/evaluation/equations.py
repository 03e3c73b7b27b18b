"""Finds equations such as `9 - 1 = 8` in any text, in time linear in it, and says whether they hold.

Numbers may be decimals; operators are signs (`×`, `÷`, `−`, LaTeX's `\\times`) or words (`times`, `divided by`).
Values are exact, read by `tasks.expression` within its bounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from keras_aha.tasks.expression import MAX_DEPTH, MAX_DIGITS, MAX_LENGTH, Expression, ExpressionError, parse_expression

_SIGNS = str.maketrans(
    {"\u00d7": "*", "\u00b7": "*", "\u22c5": "*", "\u00f7": "/", "\u2212": "-", "\u2019": "'"}
    | dict.fromkeys("$`")  # marks of mathematics and of code
)
# Rewritten before equations are looked for. Possessive quantifiers (`++`) never give back, whatever the text.
_REWRITES = [
    (re.compile(r"\\d?frac\{([^{}\n]*+)\}\{([^{}\n]*+)\}"), r"((\1)/(\2))"),
    (re.compile(r"\\(?:times|cdot)\b"), "*"),
    (re.compile(r"\\div\b"), "/"),
    (re.compile(r"\\[()\[\]]"), ""),
    # Bold type; between two numbers it is a power.
    (re.compile(r"(?<![0-9)])(?<![0-9)] )\*\*|\*\*(?! ?[0-9(])"), ""),
    (re.compile(r"(?<=[0-9)])[ \t]*+(?:x|times|multiplied by)[ \t]*+(?=[0-9(])"), "*"),
    (re.compile(r"(?<=[0-9)])[ \t]*+divided by[ \t]*+(?=[0-9(])"), "/"),
    (re.compile(r"(?<=[0-9)])[ \t]*+plus[ \t]*+(?=[0-9(])"), "+"),
    (re.compile(r"(?<=[0-9)])[ \t]*+minus[ \t]*+(?=[0-9(])"), "-"),
    (re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9])(?![ \t]*+[-+*/=]))"), ""),  # 1,000 but not 8,100/4
    (re.compile(r"\n[ \t]*+="), " ="),  # a calculation written downwards
]

_OPERAND = r"[0-9]++(?:\.[0-9]++)?+(?:[ \t]*+\))*+"
_TERM = (
    # A minus that a blank follows is a dash, at the beginning.
    rf"(?:-(?=[0-9(]))?+(?:\([ \t]*+(?:-[ \t]*+)*+)*+{_OPERAND}"
    rf"(?:[ \t]*+(?:\*\*|[-+*/^])[ \t]*+(?:[-(][ \t]*+)*+{_OPERAND})*+"
)
_TOKEN = re.compile(
    rf"(?P<term>{_TERM})"
    r"|(?P<arrow>[-=]>)"
    r"|(?P<about>\u2248|~=|~|=~)"
    r"|(?P<unequal>\u2260|!=|=/=|[<>]=?)"
    r"|(?P<equal>==?)"
    r"|\b(?P<unequal_word>is not|isn't|does not equal|doesn't equal)\b"
    r"|\b(?P<about_word>is (?:about|approximately|roughly)|equals (?:about|approximately|roughly))\b"
    r"|\b(?P<equal_word>is equal to|is|equals|gives(?: us| me)?|makes|yields)\b"
    # What begins like a term and is none is skipped at once, not read again from each of its characters.
    r"|\([-( \t]*+|-[- \t]*+"
)
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_DECIMAL = re.compile(rf"([0-9]{{1,{MAX_DIGITS}}})\.([0-9]{{1,{MAX_DIGITS - 1}}})(?![0-9])")
_OPERATION = re.compile(r"[0-9)][ \t]*+[-+*/^]")
_DECIMAL_COMMA = re.compile(r",[0-9]++(?![ \t]*+[-+*/=])")  # 2,75 where the next equation of 9-1=8,8/4=2 is none
_REMAINDER = re.compile(r"[ \t]*+(?:with |and )?(?:a )?r(?:emainder(?: of)?)?[ \t]*+[0-9]")


@dataclass(frozen=True, slots=True)
class Equation:
    """An equation in a text that `rewritten` has returned; one of three terms, `8-4=4=4`, is two of them.

    Attributes:
        start, end: where it stands in that text.
        left: what stands on the left of the sign.
        result: the first number on the right, as it is written.
        unequal: whether the sign is one of `≠ != < >`, or `is not`: two values compared.
        holds: whether it is true; `None` if `unequal`, or if a side cannot be read (a power, too long). A decimal is
            true if its last digit is rounded or cut, and so is an integer after `≈` or before `remainder 1`.
            `9-1=8/4=2` is read as people mean it, step by step.
    """

    start: int
    end: int
    left: str
    result: str
    unequal: bool
    holds: bool | None

    @property
    def numbers(self) -> list[str]:
        """The numbers on the left, without signs, as they are written."""
        return [number.lstrip("-") for number in _NUMBER.findall(self.left)]


def rewritten(text: str) -> str:
    """Returns `text` in lower case, with plain signs for those of schoolbooks, LaTeX and words between numbers."""
    text = text.translate(_SIGNS).lower()
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return text


def find_equations(text: str) -> Iterator[Equation]:
    """Yields the equations in `text`, which `rewritten` has returned, from left to right.

    An equation has a number on each side of its sign, and an operation on one side; on the left if the sign is a word.
    """
    left = sign = None  # the term before, and the sign between it and what is looked at
    in_chain = False  # whether the term before is the right side of an equation
    for token in _TOKEN.finditer(text):
        if left is not None and text[(sign or left).end() : token.start()].strip(" \t"):
            left = sign = None
        if token.lastgroup == "term":
            equation = None if sign is None else _equation(text, left, sign, token, in_chain)
            if equation is not None:
                yield equation
            left, sign, in_chain = token, None, equation is not None
        elif left is not None and sign is None and token.lastgroup not in (None, "arrow"):
            sign = token
        else:
            left = sign = None


def _equation(text: str, left: re.Match, sign: re.Match, right: re.Match, in_chain: bool) -> Equation | None:
    kind, start, end, left, right = sign.lastgroup, left.start(), right.end(), left[0], right[0]
    if not _OPERATION.search(left) and (kind.endswith("_word") or not (in_chain or _OPERATION.search(right))):
        return None
    unequal, holds = kind.startswith("unequal"), None
    if not (unequal or len(left) + len(right) > MAX_LENGTH or _DECIMAL_COMMA.match(text, end)):
        about = kind.startswith("about") or _REMAINDER.match(text, end) is not None
        holds = _holds(left, right, about)
    return Equation(start, end, left, _NUMBER.search(right)[0], unequal, holds)


def _holds(left: str, right: str, about: bool) -> bool | None:
    """Whether two terms are equal as people write it; `None` if one of them cannot be read."""
    value, whole = _read(left), _read(right)
    if value is None:
        return None
    if whole is not None and whole.value == value.value:
        return value.value is not None  # nothing is equal to 5/0
    first = _NUMBER.match(right)
    stated = first and _read(first[0])
    if stated is None or value.value is None:
        return None if whole is None and stated is None else False
    decimals = len(first[0].partition(".")[2])
    if not decimals and not about:
        return stated.value == value.value
    unit, rest = Fraction(1, 10**decimals), abs(value.value - stated.value)
    is_cut = rest < unit and abs(stated.value) <= abs(value.value)
    return is_cut or rest <= unit / 2


@lru_cache(maxsize=4096)  # a search writes the same terms again and again
def _read(term: str) -> Expression | None:
    """What a term says, brackets at its ends that have no partner left out; `None` if it cannot be read."""
    surplus = term.count("(") - term.count(")")
    for _ in range(min(abs(surplus), MAX_DEPTH)):
        term = term.lstrip().removeprefix("(") if surplus > 0 else term.rstrip().removesuffix(")")
    try:
        return parse_expression(_DECIMAL.sub(_fraction, term))
    except ExpressionError:
        return None


def _fraction(decimal: re.Match) -> str:
    whole, digits = decimal.groups()
    return f"({int(whole + digits)}/1{'0' * len(digits)})"
