from keras_aha.tasks.checkers.make_checker import make_checker

import pytest
from verdict_tables import HOSTILE, other_verdicts, read_table

ROWS = read_table(r"""
72
    correct 72 ¦ 72. ¦ 72.0 ¦ +72 ¦ 072 ¦ 144/2 ¦ $72$ ¦ $$72$$ ¦ \(72\) ¦ \[ 72 \] ¦ **72** ¦ `72` ¦ "72" ¦ *72*
    correct \boxed{72} ¦ $\boxed{72}$. ¦ **\boxed{72}** ¦ \text{72} ¦ \frac{144}{2} ¦ \boxed{\text{72}} ¦ **72.**
    correct 7.2e1 ¦ 720E-1 ¦ 7.2 \times 10^1 ¦ 7.2 × 10^{1} ¦ 7.2\cdot10^{1} ¦ 720*10^-1 ¦ 72 km ¦ 72km ¦ 72 km/h ¦ $72
    correct $72.00 ¦ 72 dollars ¦ US$72 ¦ €72 ¦ 72 € ¦ 72% ¦ 72 % ¦ 72\% ¦ 72 percent ¦ 72 per cent ¦ 72 hours
    correct 72 \text{ cm} ¦ 72\,\mathrm{cm}^2 ¦ $72$ cm ¦ 72~km ¦ 72 miles per hour ¦ 72 square meters ¦ 72 cm²
    correct 72^\circ ¦ 72° ¦ 72 °C ¦ 72 degrees Celsius ¦ $72 per hour ¦ 72 kg/m^3 ¦ \$72 ¦ $\$72$ ¦ 72 m/s²
    wrong_value 73 ¦ -72 ¦ 7.2 ¦ 720 ¦ 72.5 ¦ 0 ¦ 1/72 ¦ 72e1 ¦ 73 km ¦ −72 ¦ -$72 ¦ 72,000 ¦ 0.72 ¦ 72.000001 ¦ 71 1/2
    not_a_number seventy-two ¦ 72 apples ¦ about 72 ¦ 72 or 73 ¦ 72 73 ¦ 72, 73 ¦ 72 and 73 ¦ between 71 and 73 ¦ 7 2
    not_a_number 72-73 ¦ x = 72 ¦ = 72 ¦ 72! ¦ 72? ¦ 72.. ¦ 72 is the answer ¦ The answer is 72 ¦ 72x ¦ 72k ¦ 72 million
    not_a_number 72/ ¦ (72) ¦ [72] ¦ ~72 ¦ ≈72 ¦ ≥72 ¦ <72 ¦ 72 = 72 ¦ 70+2 ¦ 8*9 ¦ 72:00 ¦ 7,2 ¦ 72, ¦ #72 ¦ 72nd
    not_a_number 0x48 ¦ 72_0 ¦ --72 ¦ 72 ± 1 ¦ 72±0 ¦ $7$$2$ ¦ $7$2 ¦ $72$ or $73$ ¦ \boxed{72} \boxed{73}
    not_a_number \boxed{7}\boxed{2} ¦ **72** or **73** ¦ 72\sqrt{1} ¦ 2^3 ¦ 72/0 ¦ 144/2/1 ¦ 70 4/2 ¦ 72 km 5
    not_a_number 72 km or 73 km ¦ 1 hour 30 minutes ¦ $72 € ¦ 72e ¦ e72 ¦ 72 e1 ¦ . ¦ ½ ¦ ٧٢ ¦ 7² ¦ 7 2/ 1 2
    not_a_number \frac{72}{} ¦ \frac{}{72} ¦ \text{7}2 3 ¦ 72 % of 5 ¦ 72 metre cat ¦ nan ¦ inf ¦ ∞ ¦ 72\\ ¦ 72\infty
1,234.5
    correct 1234.5 ¦ 1,234.50 ¦ $1,234.5$ ¦ $1{,}234.5$ ¦ 2469/2 ¦ 1234 1/2 ¦ 1234\frac12 ¦ $1234\frac{1}{2}$ ¦ 1.2345e3
    wrong_value 1234 ¦ 1235 ¦ 12345 ¦ 1,235 ¦ 1 1/2
    not_a_number 1.234,5 ¦ 1234,5 ¦ 1 234.5 ¦ 1,23,4.5 ¦ 12,34.5 ¦ 1,2345 ¦ 1233 3/2 ¦ 1'234.5 ¦ 1234.5.0 ¦ ,5
    not_a_number 1,234.5,0
-3/4
    correct -0.75 ¦ -.75 ¦ −0.75 ¦ -3/4 ¦ -6/8 ¦ -\frac{3}{4} ¦ -\frac34 ¦ \dfrac{-3}{4} ¦ -75e-2 ¦ $-0.75 ¦ -$0.75
    correct -3 / 4
    wrong_value 3/4 ¦ -3/5 ¦ -4/3 ¦ -0.8
    not_a_number - 3/4 ¦ 3/-4 ¦ \frac{3}{-4} ¦ -3/4/1 ¦ \frac{3}{4 ¦ -\frac{-3}{4} ¦ –3/4 ¦ (3/4)
    not_a_number \frac{1}{2}\frac{3}{4} ¦ -$-0.75
5 km
    correct 5 ¦ 5 km ¦ 5 kilometers ¦ 5 Kilometres ¦ 5\text{ km}
    wrong_value 5 m ¦ 5000 m ¦ 5 miles ¦ 5 km^2 ¦ 5 km/h ¦ $5 ¦ 5% ¦ 6 km
    not_a_number 5 apples ¦ 5 km or so ¦ km 5
3 apples
    correct 3 ¦ 3 apples ¦ 3 apple ¦ 3 Apples.
    wrong_value 4 apples ¦ 3 m
    not_a_number 3 pears ¦ 3 red apples
$5 per hour
    correct 5 ¦ $5/hour ¦ 5 dollars per h ¦ $5/h
    wrong_value $5 ¦ 5 hours ¦ €5 per hour
0
    correct 0 ¦ -0 ¦ 0.00 ¦ 0/7 ¦ 0e5
    wrong_value 1e-300
    not_a_number - ¦ 1e-9999 ¦ zero ¦ 0/0
""")
ROWS += [("72", text, "correct") for text in (" 72\n", "72\u00a0km", "\t72\r\n")]
ROWS += [("72", text, "no_answer") for text in ("", " ", "\n\n")]
ROWS += [("72", text, "too_long") for text in (" " * 99 + "72", "72" + "0" * 99)]
ROWS += [("72", text, "not_a_number") for text in ("7\n2", "72\n73", "7\u200b2", "72\x00")]


def test_verdicts():
    checker = make_checker("number", {})
    assert other_verdicts(checker, ROWS) == []
    assert {checker.verdict(text, "5") for text in HOSTILE} <= {"not_a_number", "wrong_value", "too_long"}


def test_an_error_is_forgiven_if_asked():
    checker = make_checker("number", {"tolerance": 0.01})
    verdicts = {text: checker.verdict(text, "-200") for text in ("-198", "-202", "-197.9", "200")}
    assert [text for text, verdict in verdicts.items() if verdict == "correct"] == ["-198", "-202"]
    assert [checker.verdict(text, "0") for text in ("0", "1e-9")] == ["correct", "wrong_value"]
    for wrong in (-0.1, 1, "0.1", True, float("nan")):
        with pytest.raises(ValueError, match="`tolerance` must be at least 0 and below 1. Received: tolerance="):
            make_checker("number", {"tolerance": wrong})
