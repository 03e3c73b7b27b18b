"""An exact reader of arithmetic: integers, `+ - * / ( )`, unary minus, and a trailing `= 24`.

Python's own parser is never used, every value is exact, and the bounds below are checked before any arithmetic is done.
So no text, however hostile, costs more than a little time.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from operator import add, mul, sub

MAX_LENGTH = 1000  # characters, spaces included
MAX_DEPTH = 50  # open brackets at one time
MAX_OPERATIONS = 200  # operators, unary minuses included
MAX_DIGITS = 20  # digits of one integer

# What a policy writes for an operator without meaning another one: ×, ÷ and U+2212.
_FORGIVEN = str.maketrans({"\u00d7": "*", "\u00f7": "/", "\u2212": "-"})
# Everything but ASCII blanks is a token, so that nothing unknown is skipped.
_TOKEN = re.compile(r"[0-9]+|[^0-9 \t\r\n\f\v]")
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "negate": 3}
_RESULTS = {"+": add, "-": sub, "*": mul, "/": Fraction, "negate": sub}  # a negation is taken from 0


class ExpressionError(ValueError):
    """Text that is no expression (`verdict="not_an_expression"`) or beyond a bound (`verdict="too_long"`)."""

    def __init__(self, verdict: str = "not_an_expression"):
        super().__init__(verdict)
        self.verdict = verdict


@dataclass(frozen=True)
class Expression:
    """What an expression says.

    Attributes:
        value: its exact value; `None` if it divides by zero.
        numbers: the integers in it from left to right, without signs (`-3` uses the 3).
        stated: the integer after a trailing `=`; `None` if there is none.
    """

    value: Fraction | None
    numbers: tuple[int, ...]
    stated: int | None


def parse_expression(text: str) -> Expression:
    """Reads `text` as one expression, after which `= INTEGER` may stand.

    Blanks and newlines between tokens mean nothing, nor does one full stop at the end, and ×, ÷ and − count as `*`, `/`
    and `-`. Numbers are ASCII digits without leading zeros. A minus may stand wherever Python allows one, in any
    number; a unary plus may not.

    Raises:
        ExpressionError: with `verdict` `"too_long"` if the whole text is beyond `MAX_LENGTH`, `MAX_DEPTH`,
            `MAX_OPERATIONS` or `MAX_DIGITS`, readable or not; else `"not_an_expression"` if it cannot be read.
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError("too_long")
    tokens = _tokens(text)
    _check_bounds(tokens)
    stated = None
    if "=" in tokens:
        equals = tokens.index("=")
        stated = _stated_integer(tokens[equals + 1 :])
        tokens = tokens[:equals]
    return Expression(*_evaluate(tokens), stated)


def canonical_text(text: str) -> str:
    """The tokens of an expression with one blank between two, and `*`, `/`, `-` for ×, ÷, −: `( 9 - 1 ) / 4`.

    Texts with the same canonical text are the same expression to `parse_expression`, which raises what this raises.
    Brackets and the order of terms stay.
    """
    parse_expression(text)
    return " ".join(_tokens(text))


def _tokens(text: str) -> list[str]:
    tokens = _TOKEN.findall(text.translate(_FORGIVEN))
    return tokens[:-1] if tokens[-1:] == ["."] else tokens


def _check_bounds(tokens: list[str]) -> None:
    depth = operations = 0
    for token in tokens:
        depth = max(depth + (token == "(") - (token == ")"), 0)
        operations += token in _PRECEDENCE
        if depth > MAX_DEPTH or operations > MAX_OPERATIONS or len(token) > MAX_DIGITS:
            raise ExpressionError("too_long")


def _integer(token: str) -> int:
    # "²" is a digit to Python too, but not to int().
    if not (token.isascii() and token.isdigit()) or (token[0] == "0" and len(token) > 1):
        raise ExpressionError
    return int(token)


def _stated_integer(tokens: list[str]) -> int:
    minuses = len(tokens) - 1
    if not tokens or any(token != "-" for token in tokens[:-1]):
        raise ExpressionError
    return _integer(tokens[-1]) * (-1) ** minuses


def _evaluate(tokens: list[str]) -> tuple[Fraction | None, tuple[int, ...]]:
    """Dijkstra's two stacks: no recursion, so that depth costs no Python stack."""
    values: list[Fraction | int | None] = []  # an integer stays an `int` until a division: it takes half the time
    operators: list[str] = []
    numbers: list[int] = []
    operand_next = True
    for token in tokens:
        if operand_next:
            if token == "(":
                operators.append(token)
            elif token == "-":
                operators.append("negate")
            else:
                numbers.append(_integer(token))
                values.append(numbers[-1])
                operand_next = False
        elif token == ")":
            _reduce(values, operators, 1)
            if not operators:
                raise ExpressionError
            operators.pop()
        elif token in _PRECEDENCE:
            _reduce(values, operators, _PRECEDENCE[token])
            operators.append(token)
            operand_next = True
        else:
            raise ExpressionError
    if not operand_next:
        _reduce(values, operators, 1)
    if operand_next or operators:
        raise ExpressionError
    return None if values[0] is None else Fraction(values[0]), tuple(numbers)


def _reduce(values: list[Fraction | int | None], operators: list[str], precedence: int) -> None:
    """Applies the operators on top of the stack that bind at least as tightly, down to an open bracket."""
    while operators and _PRECEDENCE.get(operators[-1], 0) >= precedence:
        operator = operators.pop()
        right = values.pop()
        left = 0 if operator == "negate" else values.pop()
        if left is None or right is None or (operator == "/" and not right):
            values.append(None)
        else:
            values.append(_RESULTS[operator](left, right))
