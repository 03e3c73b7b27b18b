from keras_aha.tasks.checkers.make_checker import make_checker

from verdict_tables import HOSTILE, other_verdicts, read_table

ROWS = read_table(r"""
B
    correct B ¦ b ¦ B. ¦ (B) ¦ (b) ¦ [B] ¦ B) ¦ (B). ¦ B: ¦ **B** ¦ **(B)** ¦ *B* ¦ `B` ¦ "B" ¦ $B$ ¦ \boxed{B}
    correct $\boxed{\text{B}}$ ¦ \text{(B)} ¦ $\mathrm{B}$ ¦ B) Paris ¦ B. Paris ¦ (B) Paris ¦ B: Paris ¦ b) paris
    correct B - Paris ¦ [B] Paris ¦ **B) Paris** ¦ **B**) Paris ¦ (B): Paris ¦ B) Paris. ¦ Option B ¦ option (B)
    correct Answer: B ¦ The answer is B ¦ The answer is (B) Paris. ¦ The correct answer is B
    correct the correct answer is option B. ¦ Choice B ¦ The best answer is: B ¦ My final answer is B
    correct So the answer is B. ¦ The right choice is (b) ¦ **Answer:** B ¦ The answer is **B** ¦ B) Hepatitis
    correct B) Vitamin C ¦ (B) a cat ¦ B) I do ¦ B. George W. Bush ¦ B and B ¦ B) f(A) = 3
    wrong_value A ¦ C ¦ (A) ¦ J ¦ A) Paris ¦ The answer is C ¦ Option A ¦ I ¦ a. ¦ A or B ¦ B or A ¦ B, C ¦ A/B
    wrong_value B and C ¦ (A)(B) ¦ (B) (C) ¦ both A and B ¦ B & C ¦ A B C D ¦ B; A ¦ A-B ¦ A, B, C or D ¦ either B or C
    wrong_value B) Paris or C) Rome ¦ (B) Paris (C) Rome ¦ B. Paris or C. Rome ¦ A) Rome, B) Paris ¦ B: C
    wrong_value The answer is A or B ¦ B) or A)
    not_readable K ¦ 2 ¦ BC ¦ ABCD ¦ Paris ¦ A cat ¦ I think B ¦ not B ¦ The answer is not B ¦ B is wrong ¦ none
    not_readable all of the above ¦ B? ¦ ~B ¦ ¬B ¦ B! ¦ !B ¦ В ¦ ß ¦ Ⓑ ¦ B2 ¦ B_1 ¦ B = 3 ¦ maybe B ¦ B Paris ¦ Bb
    not_readable Option ¦ Answer: ¦ () ¦ <B> ¦ \B ¦ The answer is ¦ neither A nor C ¦ Anything but B
(B) Paris
    correct B ¦ (B) ¦ Paris ¦ paris. ¦ B) Paris ¦ The answer is Paris ¦ **Paris** ¦ b. PARIS
    wrong_value A ¦ B) Rome ¦ A) Paris ¦ B) Paris, France
    not_readable Rome ¦ Paris, France ¦ not Paris ¦ Paris or Rome ¦ B Paris
C
    correct C ¦ C) Vitamin C ¦ (c)
    wrong_value A) Vitamin C ¦ B) Vitamin C
J
    correct J ¦ j) ten
    wrong_value I
""")
ROWS += [("B", text, "correct") for text in (" B\n", "(B)\nParis", "Answer:\nB")]
ROWS += [("B", text, "no_answer") for text in ("", "\n ")]
ROWS += [("B", text, "too_long") for text in ("B) " + "x" * 500, "A" * 501)]


def test_verdicts():
    checker = make_checker("choice", {})
    assert other_verdicts(checker, ROWS) == []
    assert {checker.verdict(text, "B") for text in HOSTILE} == {"not_readable", "wrong_value", "too_long"}
