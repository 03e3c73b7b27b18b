"""Every verdict and every reward, against an oracle that was written from the docstrings alone."""

import random
from collections import Counter
from fractions import Fraction
from itertools import combinations_with_replacement

from keras_aha.tasks import Countdown, CountdownProblem

import pytest
from hostile_completions import hostile_completion
from verdict_oracle import REWARDS, VERDICTS, Unreadable, attainable, judge, parsed

TASK = Countdown(num_numbers=(3, 4), max_number=20)
PUZZLES = [TASK.problem(index) for index in range(12)] + [
    CountdownProblem(*puzzle)
    for puzzle in [
        *(((1, 2, 3), 9), ((3, 3, 8, 8), 24), ((4,), -4), ((100, 3), 97), ((7, 7, 7), 100), ((0, 0), 5)),
        *(((2, 2, 1), 5), ((0, 5), 0), ((1, 1, 1, 1), 0), ((0, 1, 1), 2)),  # a division by zero is near
    ]
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
        if score.correct:
            assert problem.target in attainable(tuple(sorted(problem.numbers)))
        seen[expected] += 1
    verdicts = Counter(verdict for verdict, reward in seen.elements())
    assert verdicts.keys() == set(VERDICTS) and min(verdicts.values()) >= 50, verdicts
    rewards = {(verdict, reward) for verdict in VERDICTS for reward in REWARDS.get(verdict, [0.0])}
    assert seen.keys() == rewards and min(seen.values()) >= 10, seen


def test_a_target_out_of_reach_is_never_made():
    """By brute force over all ways, which knows nothing of texts."""
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


@pytest.mark.parametrize("text", ["1)+(2", "-8*3)/8*(0", ")(", "1\n)+(2", "1=2", "+1", "1**2", "1//2", "", "01"])
def test_the_oracle_reads_no_half(text):
    """The first is what the fuzzer found: an oracle that puts brackets around a text reads two halves as one."""
    with pytest.raises(Unreadable):
        parsed(text)
