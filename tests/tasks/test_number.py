from fractions import Fraction

from keras_aha.tasks.number import read_number

import pytest

NUMBERS = {
    **{"72": 72, " 72\n": 72, "72.00": 72, "+7": 7, "-3": -3, "\u22123": -3, "$18": 18, "-$5": -5, "50%": 50, "0": 0},
    **{"12,345,678": 12345678, "$1,234.50": Fraction(2469, 2), ".5": Fraction(1, 2), "0.1": Fraction(1, 10)},
    **{"3/4": Fraction(3, 4), "-6/08": Fraction(-3, 4), "5.": 5, " 7.5. ": Fraction(15, 2), "3/4.": Fraction(3, 4)},
}
NONE = [
    *("", " ", ".", "$", "%", "1,23", "1234,567", "1e9", "7 8", "72 apples", "x", "1/0", "1/2/3", "0x10", "1_000"),
    *("--1", "\u0663", "5..", ". 5", "5 .", "9" * 41, "nan", "inf", "1\n2"),
]


@pytest.mark.parametrize("text", [*NUMBERS, *NONE])
def test_what_is_a_number(text):
    assert read_number(text) == NUMBERS.get(text)
