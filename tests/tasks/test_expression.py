import ast

from keras_aha.tasks.expression import (
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_LENGTH,
    MAX_OPERATIONS,
    Expression,
    ExpressionError,
    parse_expression,
)

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from verdict_oracle import value_of


@pytest.mark.parametrize(
    ("text", "value", "numbers", "stated"),
    [
        ("0", 0, (0,), None),
        ("8/4/2", 1, (8, 4, 2), None),
        ("1/3*3", 1, (1, 3, 3), None),
        ("2---3", -1, (2, 3), None),
        ("2/-(3-5)", 1, (2, 3, 5), None),
        ("6 \u00f7 4 \u00d7 2", 3, (6, 4, 2), None),
        ("\u22123 + 5", 2, (3, 5), None),
        ("\n(1 +\r\n\t2)\n* 3\n", 9, (1, 2, 3), None),
        ("1+2/(3-3)", None, (1, 2, 3, 3), None),
        ("-(1/0)*0", None, (1, 0, 0), None),
        ("1+2 = 4", 3, (1, 2), 4),
        ("1-2 = \u2212 1", -1, (1, 2), -1),
        ("1=--1", 1, (1,), 1),
    ],
)
def test_what_an_expression_says(text, value, numbers, stated):
    assert parse_expression(text) == Expression(value, numbers, stated)


@pytest.mark.parametrize(
    "text",
    [
        *("", "\n", "x", "1+", "+", "*1", "()", "(", ")", "(1", "1)", ")1(", "1()", "(1)(2)", "2(3)", "(1)2"),
        *("+3", "1++2", "1-+2", "1 2", "1\n2", "1.5", "1.", ".5", "1e3", "1_0", "1,2", "007", "00", "0x1"),
        *("2**3", "2* *3", "7//2", "7%2", "7/ /2", "2^3", "1|2", "~1", "1<2", "5!", "abs(1)", "1 if 1 else 2"),
        *("[1+2]", "(1+2]", "\uff081+2\uff09", "\u2212", "1\u00d7\u00d72", "1\u00b72", "1\u22172", "1\u20132"),
        *("\u0661+\u0662", "\uff11+\uff12", "1\u00b2", "\u00bd", "\u2460", "1\u00a0+2", "1\u200b+2", "1\x00+2"),
        *("=", "=3", "1+2=", "1+2=3=3", "3=1+2", "1+2==3", "1+2=3.0", "1+2=+3", "1+2=3/1", "1+2=(3)", "1+2=x", "1+2=-"),
        *("1+2 # 3", "`1+2`", "$1+2$", "\\frac{1}{2}", "'1'", "1;2", "1\\\n+2", "\ud800"),
    ],
)
def test_not_an_expression(text):
    with pytest.raises(ExpressionError) as caught:
        parse_expression(text)
    assert caught.value.verdict == "not_an_expression"


@pytest.mark.parametrize(
    ("write", "most"),
    [
        (lambda n: "1".ljust(n), MAX_LENGTH),
        (lambda n: "(" * n + "1" + ")" * n, MAX_DEPTH),
        (lambda n: "-" * n + "1", MAX_OPERATIONS),
        (lambda n: "1" + "*2" * n, MAX_OPERATIONS),
        (lambda n: "9" * n, MAX_DIGITS),
        (lambda n: "1=" + "9" * n, MAX_DIGITS),
    ],
    ids=["length", "depth", "minuses", "operations", "digits", "stated digits"],
)
def test_bounds(write, most):
    parse_expression(write(most))
    with pytest.raises(ExpressionError) as caught:
        parse_expression(write(most + 1))
    assert caught.value.verdict == "too_long"


_BLANKS = st.sampled_from(["", "", "", " ", "\n", "\t ", "\r\n"])
_SYMBOLS = {"+": "+", "-": "-\u2212", "*": "*\u00d7", "/": "/\u00f7"}


@st.composite
def expression_texts(draw, depth=5):
    """Random trees written with random blanks, brackets, signs and operator characters."""
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        text = str(draw(st.integers(0, 120)))
    else:
        # The operator joins texts, not trees: precedence is left to the reader.
        symbol = draw(st.sampled_from(_SYMBOLS[draw(st.sampled_from("+-*/"))]))
        parts = draw(expression_texts(depth=depth - 1)), draw(_BLANKS), symbol, draw(_BLANKS)
        text = "".join(parts) + draw(expression_texts(depth=depth - 1))
        if draw(st.booleans()):
            text = f"({draw(_BLANKS)}{text}{draw(_BLANKS)})"
    if draw(st.integers(0, 5)) == 0:
        text = "-" * draw(st.integers(1, 3)) + draw(_BLANKS) + text
    return text


def read_by_python(text):
    """Value and numbers by Python's own reading of the text; `None` for a division by zero."""
    for ours, theirs in (("\u00d7", "*"), ("\u00f7", "/"), ("\u2212", "-")):
        text = text.replace(ours, theirs)
    tree = ast.parse(f"({text})", mode="eval").body
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    constants.sort(key=lambda node: (node.lineno, node.col_offset))
    try:
        value = value_of(tree)
    except ZeroDivisionError:
        value = None
    return value, tuple(node.value for node in constants)


@settings(max_examples=400, deadline=None)
@given(expression_texts())
def test_same_as_python(text):
    try:
        expression = parse_expression(text)
    except ExpressionError as error:
        assert error.verdict == "too_long"
        assert len(text) > MAX_LENGTH or sum(text.count(symbol) for symbol in "+-*/\u00d7\u00f7\u2212") > MAX_OPERATIONS
    else:
        assert (expression.value, expression.numbers) == read_by_python(text)
