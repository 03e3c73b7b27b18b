from fractions import Fraction

from keras_aha.evaluation.equations import find_equations, rewritten
from keras_aha.tasks.expression import MAX_DIGITS, MAX_LENGTH

import pytest
from hypothesis import given
from hypothesis import strategies as st


def equations(text):
    return list(find_equations(rewritten(text)))


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("9-1=8,8/4=2", [("9-1", "8"), ("8/4", "2")]),
        ("I have 9. 9 - 1 = 8. 8 / 4 = 2.", [("9 - 1", "8"), ("8 / 4", "2")]),
        ("8-4=4=4", [("8-4", "4"), ("4", "4")]),
        ("9 4 1: 9-1=8", [("9-1", "8")]),
        ("1. 9-1=8\n2) 9-1=8\n- 9-1=8\n* 9-1=8", [("9-1", "8")] * 4),
        ("9 \u00d7 4 = 36, 8 \u00f7 4 = 2, 9 \u2212 1 = 8", [("9 * 4", "36"), ("8 / 4", "2"), ("9 - 1", "8")]),
        ("9x4 = 36 and 9 times 4 is 36, 8 divided by 4 equals 2", [("9*4", "36"), ("9*4", "36"), ("8/4", "2")]),
        (r"$9 \times 4 = 36$, \(\frac{8}{4} = 2\)", [("9 * 4", "36"), ("((8)/(4))", "2")]),
        ("**9 - 1** = **8**, 2**3 = 8", [("9 - 1", "8"), ("2**3", "8")]),
        ("25*40=1,000 and 9-1=8,100/4=25", [("25*40", "1000"), ("9-1", "8"), ("100/4", "25")]),
        ("(9 - 1) / 4\n= 8 / 4\n= 2", [("(9 - 1) / 4", "8"), ("8 / 4", "2")]),
        ("10 = 9 + 1, 9 + 1 \u2248 10, 9 + 1 != 12", [("10", "9"), ("9 + 1", "10"), ("9 + 1", "12")]),
        ("4-9=-5, (-5)+1=-4", [("4-9", "-5"), ("(-5)+1", "-4")]),
        ("9-1=8 => 8+4=12 -> yes", [("9-1", "8"), ("8+4", "12")]),
        ("x = 3, 3 = 3, 3 is 3, = 5, 9-1 = x, 9-1 =, 9 = - 1, 2010-2020, a <b> 1", []),
    ],
)
def test_what_is_found(text, pairs):
    assert [(equation.left, equation.result) for equation in equations(text)] == pairs


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        *(("(9-1)*4=32", True), ("7/2=3.5", True), ("0.1+0.2=0.3", True), ("3*4=6*2", True), ("(3+4=7)", True)),
        ("9-1=8/4", True),  # as one writes on, and means 9-1=8
        *(("10/3=3.33", True), ("20/3=6.66", True), ("20/3=6.68", False), ("10/3=3", False), ("5/0=0", False)),
        *(("10/3 \u2248 3", True), ("10/3 \u2248 4", False), ("7/2=3 remainder 1", True), ("7/2=4 right", False)),
        *(("2**3=8", None), ("11/4=2,75", None), ("9-1 \u2260 8", None), (f"{10**MAX_DIGITS}+1=5", None)),
        (f"{'1+' * MAX_LENGTH}1=5", None),
    ],
)
def test_whether_it_holds(text, holds):
    equation, *others = equations(text)
    assert equation.holds is holds and not others


@given(st.integers(-99, 99), st.integers(-99, 99), st.sampled_from("+-*/"), st.integers(-2, 2))
def test_whole_results_are_exact(a, b, operator, off):
    exact = {"+": a + b, "-": a - b, "*": a * b, "/": Fraction(a, b) if b else None}[operator]
    stated = (0 if exact is None else int(exact)) + off
    (equation,) = equations(f"({a}){operator}({b})={stated}")
    assert equation.holds is (exact == stated)


def test_places_are_those_of_the_rewritten_text():
    text = rewritten("First 9 \u00d7 4 = 36, no.")
    (equation,) = find_equations(text)
    assert text[equation.start : equation.end] == "9 * 4 = 36" and not equation.unequal
    assert equation.numbers == ["9", "4"]
