"""`Calculator`: exact arithmetic."""

from typing import Any

from keras_aha.tasks.expression import ExpressionError, parse_expression
from keras_aha.tasks.tools.tool import Tool, ToolError

_LONGEST = 100  # digits of a result


class Calculator(Tool):
    """Works out one expression of integers, `+ - * /` and brackets, by the parser that scores Countdown.

    It answers an integer, or a fraction in lowest terms, such as `7/3`.
    """

    name = "calculator"
    description = "works out an expression of integers, + - * / and brackets, exactly"
    parameters = {"properties": {"expression": {"type": "string"}}, "required": ["expression"]}

    def call(self, problem: Any, expression: str) -> str:
        value = read_expression(expression).value
        if max(abs(value.numerator), value.denominator) >= 10**_LONGEST:
            raise ToolError(f"The result has more than {_LONGEST} digits.")
        return str(value)


def read_expression(text: str):
    """The `Expression` that a text is, which has a value; ToolError if it is none."""
    try:
        expression = parse_expression(text)
    except ExpressionError as error:
        if error.verdict == "too_long":
            raise ToolError("The expression is too long.") from None
        raise ToolError("It is no expression of integers, + - * / and brackets, such as (1 + 2) * 3.") from None
    if expression.stated is not None:
        raise ToolError("The expression must be written without =.")
    if expression.value is None:
        raise ToolError("The expression divides by zero.")
    return expression
