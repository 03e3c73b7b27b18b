from keras_aha.tasks.checkers.make_checker import make_checker

import pytest
from verdict_tables import HOSTILE, other_verdicts, read_table

ROWS = read_table(r"""
\d{4}-\d\d-\d\d
    correct 2024-01-31 ¦ 0000-99-99
    wrong_value 2024-1-31 ¦ 24-01-31 ¦ 2024-01-31. ¦ on 2024-01-31 ¦ 2024/01/31 ¦ 2024-01-31 2024-01-31
    wrong_value \d{4}-\d\d-\d\d ¦ 2024 -01-31
(?i)paris|rome
    correct Paris ¦ PARIS ¦ rome
    wrong_value Parisrome ¦ Paris. ¦ Paris Rome ¦ paris|rome ¦ Berlin ¦ (?i)paris
[A-Z][a-z]+ [A-Z][a-z]+
    correct Ada Lovelace ¦ New York
    wrong_value ada lovelace ¦ Ada ¦ Ada Lovelace Byron ¦ Ada  Lovelace ¦ ADA LOVELACE ¦ Ada-Lovelace
-?[0-9]+(\.[0-9]+)?
    correct 5 ¦ -5.25 ¦ 007
    wrong_value 5. ¦ .5 ¦ 1e3 ¦ five ¦ 5 5 ¦ +5 ¦ −5 ¦ ٥
^a.c$
    correct abc ¦ a.c ¦ a c
    wrong_value ac ¦ abbc ¦ abcabc ¦ ABC
(a|b)\1
    correct aa ¦ bb
    wrong_value ab ¦ a
(a+)+b
    correct ab ¦ aab
""")
ROWS += [("(a+)+b", "a" * 200, "too_slow"), ("(a+)+b", "ab", "correct")]  # it works again
ROWS += [("^a.c$", " abc\n", "correct"), ("^a.c$", "a\nc", "wrong_value"), ("(?s)a.c", "a\nc", "correct")]
ROWS += [("a*", " ", "no_answer"), ("a*", "a" * 1001, "too_long")]


def test_verdicts():
    checker = make_checker("regex", {"seconds": 0.5})
    assert other_verdicts(checker, ROWS) == []
    assert {checker.verdict(text, "[Bb]|five") for text in HOSTILE} == {"wrong_value", "too_long"}


def test_arguments():
    for wrong in (0, -1, 601, "5", True, None):
        with pytest.raises(ValueError, match="`seconds` must be above 0 and at most 600. Received: seconds="):
            make_checker("regex", {"seconds": wrong})
