from keras_aha.tasks.checkers.make_checker import make_checker

import pytest
from verdict_tables import HOSTILE, other_verdicts, read_table

ROWS = read_table(r"""
Paris
    correct Paris ¦ Paris. ¦ It is Paris ¦ Paris, France ¦ **Paris** ¦ (Paris) ¦ "Paris" ¦ the city of Paris!
    correct Rome or Paris ¦ not Paris ¦ \text{Paris}
    wrong_value paris ¦ PARIS ¦ Parisian ¦ Comparis ¦ Par is ¦ P a r i s ¦ Rome ¦ Paris1 ¦ _Paris_ ¦ Раris
New York
    correct in New York. ¦ in New  York now
    wrong_value NewYork ¦ New, York ¦ York New ¦ New Yorker
5
    correct 5 ¦ 5. ¦ It is 5. ¦ $5 ¦ 5% ¦ 5 km ¦ x = 5 ¦ (5) ¦ 4, 5, 6 ¦ 5, 6 ¦ \boxed{5} ¦ five: 5
    wrong_value 15 ¦ 55 ¦ 5.1 ¦ 1.5 ¦ .5 ¦ 1,500 ¦ 5,000 ¦ -5 ¦ −5 ¦ 5/3 ¦ 3/5 ¦ 5:30 ¦ 12:5 ¦ x5 ¦ 5th ¦ 5^2 ¦ 2^5
    wrong_value five ¦ 0x5
-5
    correct -5 ¦ it is -5.
    wrong_value 5 ¦ 1-5 ¦ -5.5 ¦ -50
C++
    correct C++ ¦ in C++. ¦ C++ and C ¦ C++!
    wrong_value C+ ¦ C ¦ c++ ¦ BC++
""")
ROWS += [("Paris", "Rome\nParis", "correct"), ("New York", "New\nYork", "correct"), ("Paris", " \n", "no_answer")]
ROWS += [("Paris", text, "too_long") for text in ("Paris" + " " * 200, "Rome, Paris, " * 20)]


def test_verdicts():
    checker = make_checker("contains", {})
    assert other_verdicts(checker, ROWS) == []
    for text in HOSTILE:
        assert checker.verdict(text, "Paris") in ("wrong_value", "too_long", "no_answer")


def test_options():
    ignoring = make_checker("contains", {"ignore_case": True, "max_length": 20})
    verdicts = [ignoring.verdict(text, "Paris") for text in ("in PARIS", "in parisian", "Paris is the capital.")]
    assert verdicts == ["correct", "wrong_value", "too_long"]
    for wrong in (0, 1001, "9", True, 1.5):
        with pytest.raises(ValueError, match="`max_length` must be an integer from 1 to 1,000. Received: max_length="):
            make_checker("contains", {"max_length": wrong})
