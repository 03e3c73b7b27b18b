import re

from keras_aha.tasks.expression import MAX_DEPTH, MAX_DIGITS, MAX_LENGTH, MAX_OPERATIONS, Expression, parse_expression

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from verdict_oracle import in_ascii, parsed, value_of

BLANKS = st.sampled_from(["", "", "", " ", "\n", "\t ", "\r\n"])


@pytest.mark.parametrize(
    ("text", "value", "numbers", "stated"),
    [
        ("2/-(3-5)", 1, (2, 3, 5), None),
        ("6 \u00f7 4 \u00d7 2", 3, (6, 4, 2), None),
        ("-(1/0)*0", None, (1, 0, 0), None),
        ("1+2 = 4", 3, (1, 2), 4),
        ("1-2 = \u2212 1", -1, (1, 2), -1),
        ("1=--1", 1, (1,), 1),
        ("(1+2) .\n", 3, (1, 2), None),
        ("1+2=4.", 3, (1, 2), 4),
    ],
)
def test_what_an_expression_says(text, value, numbers, stated):
    assert parse_expression(text) == Expression(value, numbers, stated)


@pytest.mark.parametrize(
    "text",
    [
        *("", "\n", "x", "1+", "+", "*1", "()", "(", ")", "(1", "1)", ")1(", "1()", "(1)(2)", "2(3)", "(1)2"),
        *("+3", "1++2", "1-+2", "1 2", "1\n2", "1.5", "1..", "1.+2", ".", "1e3", "1_0", "1,2", "007", "00", "0x1"),
        *("2**3", "2* *3", "7//2", "7%2", "7/ /2", "2^3", "1|2", "~1", "1<2", "5!", "abs(1)", "1 if 1 else 2"),
        *("[1+2]", "(1+2]", "\uff081+2\uff09", "\u2212", "1\u00d7\u00d72", "1\u00b72", "1\u22172", "1\u20132"),
        *("\u0661+\u0662", "\uff11+\uff12", "1\u00b2", "\u00bd", "\u2460", "1\u00a0+2", "1\u200b+2", "1\x00+2"),
        *("=", "=3", "1+2=", "1+2=3=3", "3=1+2", "1+2==3", "1+2=3.0", "1+2=+3", "1+2=3/1", "1+2=(3)", "1+2=x", "1+2=-"),
        *("1+2 # 3", "`1+2`", "$1+2$", "\\frac{1}{2}", "'1'", "1;2", "1\\\n+2", "\ud800"),
    ],
)
def test_not_an_expression(text):
    with pytest.raises(ValueError) as caught:
        parse_expression(text)
    assert caught.value.verdict == "not_an_expression"


def test_bounds():
    for write, most in [
        (lambda n: "1".ljust(n), MAX_LENGTH),
        (lambda n: "(" * n + "1" + ")" * n, MAX_DEPTH),
        (lambda n: "-" * n + "1", MAX_OPERATIONS),
        (lambda n: "1" + "*2" * n, MAX_OPERATIONS),
        (lambda n: "1=" + "9" * n, MAX_DIGITS),
    ]:
        parse_expression(write(most))
        with pytest.raises(ValueError, match="too_long"):
            parse_expression(write(most + 1))


texts = st.recursive(
    st.integers(0, 120).map(str),
    lambda inner: (
        st.tuples(inner, BLANKS, st.sampled_from("+-*/\u00d7\u00f7\u2212"), BLANKS, inner).map("".join)
        | st.tuples(st.just("("), BLANKS, inner, BLANKS, st.just(")")).map("".join)
        | st.tuples(st.sampled_from(["-", "--", "\u2212 "]), inner).map("".join)
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(texts)
def test_same_as_python(text):
    """Operators join texts, not trees: precedence is left to the reader."""
    try:
        value = value_of(parsed(in_ascii(text)))
    except ZeroDivisionError:
        value = None
    assert parse_expression(text) == Expression(value, tuple(map(int, re.findall("[0-9]+", text))), None)
