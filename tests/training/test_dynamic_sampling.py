"""`Refills` on records made by hand; problems are numbers, and as difficult as they are large."""

from keras_aha.tasks.task import Score, Task
from keras_aha.training.dynamic_sampling import Refills, next_problems
from keras_aha.training.rollout import Rollout

import numpy as np
import pytest

G = 2
FIRST = 2**32
HARDER, EASIER = [1.0, 1.0], [0.0, 0.0]
SIGNAL = [1.0, 0.0]


class Numbers(Task):
    """Problem i is i; from 2³² on, the difficulties repeat from 0 to 7."""

    def problem(self, index):
        return index

    def prompt(self, problem):
        return str(problem)

    def score(self, problem, completion):
        return Score(float(completion), completion == "1.0", "correct")

    def held_out(self, n):
        raise NotImplementedError

    def difficulty(self, problem):
        return (problem - FIRST) % 8 if problem >= FIRST else problem


class Alike(Numbers):
    difficulty = Task.difficulty


def rollout(problems, rewards, tokens=1):
    """Groups of two; every row is marked with its problem, and has as many tokens as it is told."""
    rewards = np.array(rewards, "float32").ravel()
    problems = [problem for problem in problems for _ in range(G)]
    marks, tails = np.array(problems, "float64"), [0] * (3 - tokens)
    log_probs = -np.stack([marks] * 3, axis=1)
    return Rollout(
        token_ids=np.stack([marks] * 4, axis=1),
        padding_mask=np.array([[1] + [1] * tokens + tails] * len(problems)),
        completion_mask=np.ones((len(problems), 3)),
        **dict(old_log_probs=log_probs, sampler_log_probs=log_probs, truncated=marks > FIRST),
        **dict(advantages=np.zeros(len(problems)), temperature=np.ones(len(problems)), rewards=rewards),
        **dict(problems=tuple(problems), texts=tuple(map(str, rewards))),
        scores=tuple(Score(float(reward), reward == 1.0, "correct") for reward in rewards),
    )


def fill(start, answers, task=None, prompts_per_epoch=8, rounds=None):
    """Fills `start`, whose rounds get `answers`; returns the result and what was asked for."""
    asked = []

    def sample(problems, first_row):
        asked.append((problems, first_row))
        return rollout(problems, answers[len(asked) - 1], tokens=2)

    refills = Refills(task or Numbers(), prompts_per_epoch, G, rounds or len(answers))
    pools = [list(map(refills.task.problem, numbers)) for numbers in refills.numbers(0)]
    return *refills.fill(start, pools, sample), asked


@pytest.mark.parametrize(
    "rungs, chosen",
    [
        ([(4, True), (4, True), (4, True)], [6, 9, 3]),  # the nearest that is harder, each once; then what is left
        ([(4, False), (1, False)], [3, 1]),
        ([(9, True)], [9]),
    ],
)
def test_next_problems_are_a_step_away(rungs, chosen):
    assert next_problems(rungs, [9, 1, 6, 3], float) == chosen
    assert next_problems(rungs, list("abc"), lambda problem: 0) == list("abc")[: len(rungs)]  # equals: as they come


def test_all_right_goes_up_and_all_wrong_goes_down():
    start = rollout([3, 4, 5], [HARDER, SIGNAL, EASIER])
    *_, asked = fill(start, [[SIGNAL, SIGNAL]])
    assert asked == [([FIRST + 4, FIRST + 3], 6)]  # one above 3, and what is left below 5


def test_the_next_round_goes_on_from_where_the_last_one_failed():
    """The three pools have difficulties 0 to 3, 4 to 7, 0 to 3."""
    start = rollout([1], [HARDER])
    filled, groups, tokens, asked = fill(start, [[HARDER], [EASIER], [SIGNAL]], prompts_per_epoch=4)
    levels = [Numbers().difficulty(problems[0]) for problems, _ in asked]
    assert levels == [2, 4, 3]
    assert (groups, tokens) == (1, 12)


def test_groups_with_signal_take_the_places_of_those_without():
    start = rollout([10, 11, 12, 13], [EASIER, SIGNAL, EASIER, EASIER])
    filled, groups, tokens, asked = fill(start, [[EASIER, SIGNAL]], Alike())
    assert asked == [([FIRST, FIRST + 1], 8)] and (groups, tokens) == (1, 8)
    assert list(filled.problems) == list(np.repeat([FIRST + 1, 11, 12, 13], G))
    np.testing.assert_array_equal(filled.token_ids[:, 0], filled.problems)
    np.testing.assert_array_equal(filled.rewards, np.ravel([SIGNAL, SIGNAL, EASIER, EASIER]))
    np.testing.assert_array_equal(filled.lengths, [2, 2, 1, 1, 1, 1, 1, 1])
    assert start.problems[0] == 10 and start.rewards[0] == 0.0  # the first rollout is left as it was


def test_rounds_have_their_own_problems_and_rows():
    start = rollout([10, 11, 12, 13], [EASIER] * 4)
    filled, groups, tokens, asked = fill(start, [[EASIER, SIGNAL]] * 3, Alike())
    assert asked == [([FIRST + 8 * i, FIRST + 8 * i + 1], 8 + 4 * i) for i in range(3)]
    assert filled.problems[::G] == (FIRST + 1, FIRST + 9, FIRST + 17, 13)
    assert (groups, tokens) == (3, 24)


def test_no_round_is_sampled_if_nothing_is_left_to_fill():
    filled, groups, _, asked = fill(rollout([10, 11], [SIGNAL, EASIER]), [[SIGNAL, SIGNAL]], Alike(), rounds=3)
    assert len(asked) == 1 and filled.problems[::G] == (10, FIRST) and groups == 1
    assert fill(filled, [], rounds=2) == (filled, 0, 0, [])
    with pytest.raises(ValueError, match="Received: refills=-1"):
        Refills(Numbers(), 4, G, -1)


def test_pools_never_meet_each_other_or_the_epochs_problems():
    refills = Refills(Numbers(), prompts_per_epoch=10, group_size=G, rounds=2)
    assert refills.prompts == 3
    pools = [pool for iteration in range(4) for pool in refills.numbers(iteration)]
    assert [len(pool) for pool in pools] == [12] * 8
    assert sorted(i for pool in pools for i in pool) == list(range(FIRST, FIRST + 96))
    assert refills.numbers(3) == pools[6:]
