"""Every verdict and every reward, against an oracle that was written from the docstrings alone."""

import random
from collections import Counter
from fractions import Fraction
from itertools import combinations_with_replacement

from keras_aha.tasks import Countdown, CountdownProblem
from keras_aha.tasks.expression import MAX_DEPTH, MAX_DIGITS, MAX_LENGTH, MAX_OPERATIONS

import pytest
from hostile_completions import hostile_completion
from verdict_oracle import REWARDS, VERDICTS, Unreadable, attainable, judge, parsed

TASK = Countdown(num_numbers=(3, 4), max_number=20)
PUZZLES = [
    *(TASK.problem(index) for index in range(12)),
    *(
        CountdownProblem(*puzzle)
        for puzzle in [
            *(((1, 2, 3), 9), ((3, 3, 8, 8), 24), ((4,), -4), ((100, 3), 97), ((7, 7, 7), 100), ((0, 0), 5)),
            *(((2, 2, 1), 5), ((0, 5), 0), ((1, 1, 1, 1), 0), ((0, 1, 1), 2)),  # where a division by zero is near
        ]
    ),
]


def test_ten_thousand_completions():
    rng = random.Random(0)
    seen = Counter()
    for _ in range(10_000):
        problem = rng.choice(PUZZLES)
        completion = hostile_completion(rng, problem)
        score = TASK.score(problem, completion)
        expected = judge(problem.numbers, problem.target, completion)
        assert (score.verdict, score.reward) == expected, (str(problem), completion)
        assert score.correct == (score.verdict == "correct")
        assert score.well_formed == (score.verdict not in VERDICTS[:3])
        if score.correct:
            assert problem.target in attainable(tuple(sorted(problem.numbers)))
        seen[expected] += 1
    verdicts = Counter(verdict for verdict, reward in seen.elements())
    assert verdicts.keys() == set(VERDICTS) and min(verdicts.values()) >= 50, verdicts
    rewards = {(verdict, reward) for verdict in VERDICTS for reward in REWARDS.get(verdict, [0.0])}
    assert seen.keys() == rewards and min(seen.values()) >= 10, seen


def test_a_target_out_of_reach_is_never_made():
    """By brute force over all ways, which know nothing of texts."""
    rng = random.Random(1)
    unreachable = [
        CountdownProblem(numbers, target)
        for numbers in combinations_with_replacement(range(1, 6), 3)
        for target in (37, 53)
        if target not in attainable(numbers)
    ]
    assert len(unreachable) > 20
    for _ in range(2000):
        problem = rng.choice(unreachable)
        assert TASK.score(problem, hostile_completion(rng, problem)).reward <= 0.1


def test_attainable_by_hand():
    assert attainable((2,)) == {2, -2}
    assert attainable((2, 3)) == {5, -5, 1, -1, 6, -6, Fraction(2, 3), -Fraction(2, 3), Fraction(3, 2), -Fraction(3, 2)}
    assert 24 in attainable((3, 3, 8, 8)) and 1000 not in attainable((3, 3, 8, 8))


BOUNDS = [
    ("(" * MAX_DEPTH + "1" + ")" * MAX_DEPTH, "wrong_numbers"),
    ("(" * (MAX_DEPTH + 1) + "1", "too_long"),
    (")" * 9 + "(" * MAX_DEPTH, "not_an_expression"),
    (")" * 9 + "(" * (MAX_DEPTH + 1), "too_long"),  # what was never open is not closed
    ("(" * (MAX_DEPTH + 1) + "=x", "too_long"),  # readable or not
    ("x" + "9" * (MAX_DIGITS + 1), "too_long"),
    ("-" * MAX_OPERATIONS + "1", "wrong_numbers"),
    ("-" * MAX_OPERATIONS + "1=-1", "too_long"),  # on both sides together
    ("1=" + "-" * (MAX_OPERATIONS + 1) + "x", "too_long"),
    ("\u2212" * (MAX_OPERATIONS + 1), "too_long"),
    ("\u00e9" * MAX_LENGTH, "not_an_expression"),
    ("\u00e9" * (MAX_LENGTH + 1), "too_long"),
]


@pytest.mark.parametrize(("answer", "verdict"), BOUNDS)
def test_bounds_come_before_reading(answer, verdict):
    completion = f"<answer>{answer}</answer>"
    assert TASK.score(PUZZLES[0], completion).verdict == verdict
    assert judge(PUZZLES[0].numbers, PUZZLES[0].target, completion)[0] == verdict


@pytest.mark.parametrize(
    "text", ["1)+(2", "-8*3)/8*(0", ")(", "(1", "1)", "1\n)+(2", "1=2", "+1", "1**2", "1//2", "", "01"]
)
def test_the_oracle_reads_no_half(text):
    """The first is what the fuzzer found: an oracle that puts brackets around a text reads two halves as one."""
    with pytest.raises(Unreadable):
        parsed(text)


# From the fuzzer's corpora: the disagreement it found, which was the oracle's, and odd ways to each verdict.
FUZZED = [
    ((0, 0), 0, "\n<answer>-8*3)/8*0---(---(-(8*3)/8*0/0))</answer>", "not_an_expression", 0.0),
    ((8, 3), 24, "<answer>8)*(3</answer>", "not_an_expression", 0.0),
    ((0, 0), 0, "9-1=8,8/4=2 no\n</thin/answer>", "no_answer", 0.0),
    ((1, 2, 3), 9, "8/=1think>\n<answer>--((1+2)*8/a\ufffder3)</answer>", "not_an_expression", 0.0),
    ((2, 2, 1), 5, " s.\n<answer>1/1/1/1/1/1/0/1/1/1\x1e/1*2</answer>", "not_an_expression", 0.0),
    ((0, 5), 0, "lee s\ufffd\n<answer>0*5=9999999099999999999999</answer>\nr>", "too_long", 0.0),
    ((25, 50, 75, 100), 52, f"<answer>2\x06{'(' * 37}\t{'(' * 14}</answer>", "too_long", 0.0),
    ((4,), -4, "l\n<answer>-3=-\t3</answer>", "wrong_numbers", 0.0),
    ((2, 2, 1), 5, "\n<answer>1+2/0/1/1/1*2</answer>", "wrong_numbers", 0.0),
    ((0, 0), 0, "<answer>------( 0/\u22120\n)</answer>", "division_by_zero", 0.1),
    ((0, 0), 0, "<answer>---( 0/\u22120\n)</answer>0\ner>", "division_by_zero", 0.0),
    ((98, 58, 3), 43, f"<answer>3+98-58={'-' * 121}43</answer>", "false_equation", 0.1),
    ((4,), -4, "<answer>-4=-3</answer>\n<aner)", "false_equation", 0.0),
    ((3, 3, 8, 8), 24, "I wanswer> tags.\n<answer>-(-(8*3)/8*3)</answer>\n<answer>1", "wrong_value", 0.0),
    ((1, 1, 1, 1), 0, "<w><answer>1*1*1*1</answer>", "wrong_value", 0.1),
    ((4,), -4, "I wrer> tegs.\n<answer>-4</answer>", "correct", 1.0),
]  # fmt: skip


@pytest.mark.parametrize(("numbers", "target", "completion", "verdict", "reward"), FUZZED)
def test_what_fuzzing_left(numbers, target, completion, verdict, reward):
    score = TASK.score(CountdownProblem(numbers, target), completion)
    assert (score.verdict, score.reward) == judge(numbers, target, completion) == (verdict, reward)
