import random
from fractions import Fraction
from typing import Literal

from keras_aha.tasks.tools.calculator import Calculator
from keras_aha.tasks.tools.function_tool import FunctionTool
from keras_aha.tasks.tools.tool import ToolError

import pytest


def random_expression(rng, depth=3):
    """A text, and its value by fractions; `None` if it divides by zero."""
    if depth == 0 or rng.random() < 0.2:
        number = rng.randrange(10 ** rng.randint(1, 12))
        return str(number), Fraction(number)
    (left, a), (right, b), sign = (
        random_expression(rng, depth - 1),
        random_expression(rng, depth - 1),
        rng.choice("+-*/"),
    )
    text = f"({left} {sign} {right})"
    if a is None or b is None or (sign == "/" and b == 0):
        return text, None
    return text, {"+": a + b, "-": a - b, "*": a * b}[sign] if sign != "/" else a / b


def test_the_calculator_against_fractions():
    rng, calculator = random.Random(0), Calculator()
    for _ in range(500):
        text, value = random_expression(rng)
        if value is None:
            with pytest.raises(ToolError, match="divides by zero"):
                calculator.call(None, text)
        else:
            assert Fraction(calculator.call(None, text)) == value


@pytest.mark.parametrize(
    "text, wrong",
    [
        ("", "no expression of integers"),
        ("1.5 + 2", "no expression of integers"),
        ("2**9", "no expression of integers"),
        ("__import__('os')", "no expression of integers"),
        ("1 + 1 = 3", "without ="),
        ("1 / (2 - 2)", "divides by zero"),
        ("9" * 21, "too long"),
        ("*".join(["9" * 20] * 20), "more than 100 digits"),
        ("1/" + "/".join(["9" * 20] * 20), "more than 100 digits"),
    ],
)
def test_what_the_calculator_refuses(text, wrong):
    with pytest.raises(ToolError, match=wrong):
        Calculator().call(None, text)


def is_prime(
    number: int, proof: bool = False, word: Literal["yes", "no"] = "yes", *, share: float = 0.5, problem
) -> str:
    """Says whether a number
    is prime.

    Nothing else.
    """
    return f"{problem}: {number} {proof} {word} {share}"


def test_a_function_of_the_users_own():
    tool = FunctionTool(is_prime)
    assert (tool.name, tool.description) == ("is_prime", "Says whether a number is prime.")
    assert tool.parameters == {
        "properties": {
            **{"number": {"type": "integer"}, "proof": {"type": "boolean"}},
            **{"word": {"type": "string", "enum": ["yes", "no"]}, "share": {"type": "number"}},
        },
        "required": ["number"],
    }
    assert tool.call("a problem", number=3) == "a problem: 3 False yes 0.5"

    def half(number: "int") -> float:  # an annotation may be a text
        """Halves."""
        return {1: 0.5, 2: 1, 3: b"1.5", 4: None}[number]

    assert [FunctionTool(half).call(None, number=number) for number in (1, 2)] == ["0.5", "1"]
    for number, kind in ((3, "bytes"), (4, "NoneType")):
        with pytest.raises(TypeError, match=f"The tool half must return a text or a number. Received: {kind}"):
            FunctionTool(half).call(None, number=number)


def silent(number: int):
    return number


def without(number):
    """Has no annotation."""


def several(*numbers: int):
    """Takes any number of them."""


def listed(numbers: list[int]):
    """Takes what has no schema here."""


def chosen(number: Literal[1, 2]):
    """Takes a choice of numbers."""


@pytest.mark.parametrize("function", [silent, without, several, listed, chosen])
def test_a_function_without_a_schema(function):
    wrong = rf"needs a docstring, and for each argument an annotation str, .* Received: {function.__name__}\("
    with pytest.raises(ValueError, match=wrong):
        FunctionTool(function)
