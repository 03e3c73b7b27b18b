from fractions import Fraction

from keras_aha.tasks.number import read_number

import pytest


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("72", 72),
        (" 72\n", 72),
        ("+7", 7),
        ("-3", -3),
        ("\u22123", -3),
        ("$18", 18),
        ("-$5", -5),
        ("$1,234.50", Fraction(2469, 2)),
        ("12,345,678", 12345678),
        ("0.1", Fraction(1, 10)),
        (".5", Fraction(1, 2)),
        ("72.00", 72),
        ("50%", 50),
        ("3/4", Fraction(3, 4)),
        ("-6/08", Fraction(-3, 4)),
        ("0", 0),
    ],
)
def test_what_is_a_number(text, number):
    assert read_number(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ".",
        "$",
        "%",
        "1,23",
        "1234,567",
        "1e9",
        "7 8",
        "72 apples",
        "x",
        "1/0",
        "1/2/3",
        "0x10",
        "1_000",
        "--1",
        "٣",
    ]
    + ["5.", "9" * 41, "nan", "inf", "1\n2"],
)
def test_what_is_none(text):
    assert read_number(text) is None
