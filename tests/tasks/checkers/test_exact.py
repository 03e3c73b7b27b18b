from keras_aha.tasks.checkers.make_checker import make_checker

from verdict_tables import HOSTILE, other_verdicts, read_table

ROWS = read_table("""
New York
    correct New York ¦ New York. ¦ New   York . ¦ New  York
    wrong_value new york ¦ NEW YORK ¦ New York City ¦ NewYork ¦ New York! ¦ New York.. ¦ New York? ¦ York New
    wrong_value the New York ¦ New York, Boston ¦ New York or Boston ¦ 'New York' ¦ **New York** ¦ $New York$ ¦ New Yorк
    wrong_value New\u200bYork ¦ <answer>New York</answer> ¦ New York. New York ¦ "New York" ¦ New York:
    wrong_value It is New York. ¦ New-York
café
    correct café ¦ cafe\u0301 ¦ café.
    wrong_value cafe ¦ cafè ¦ CAFÉ ¦ café au lait
-1
    correct -1 ¦ -1.
    wrong_value 1 ¦ - 1 ¦ \u22121 ¦ -1.0 ¦ -01 ¦ (-1)
.
    correct . ¦ ..
    wrong_value ... ¦ -
""")
ROWS += [
    ("New York", text, "correct")
    for text in (" New York\n", "New\nYork", "New\u00a0York", "New\tYork\r\n", "New\u2028York")
]
ROWS += [("New York", text, "no_answer") for text in ("", " ", "\n\t", "\u2003")]
ROWS += [("New York", text, "too_long") for text in ("New York" + " " * 1000, "x" * 10**6)]
ROWS += [("New York", text, "wrong_value") for text in ("New York\x00", "\ufeffNew York", "New York\x1b[0m")]


def test_verdicts():
    checker = make_checker("exact", {})
    assert other_verdicts(checker, ROWS) == []
    assert {checker.verdict(text, "5") for text in HOSTILE} == {"wrong_value", "too_long"}


def test_case_is_ignored_if_asked():
    checker = make_checker("exact", {"ignore_case": True})
    verdicts = [checker.verdict(answer, "Straße A") for answer in ("STRASSE a.", "straße  A", "Strase A")]
    assert verdicts == ["correct", "correct", "wrong_value"]
