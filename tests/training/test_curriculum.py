from keras_aha.tasks.mixture import Mixture
from keras_aha.tasks.task import Score, Task
from keras_aha.training.curriculum import Curriculum

import pytest

P = 3


class Numbers(Task):
    """Problem i is i, and as difficult as its last digit."""

    def problem(self, index):
        return index

    def prompt(self, problem):
        return str(problem)

    def score(self, problem, completion):
        return Score(1.0, True, "correct")

    def held_out(self, n):
        raise NotImplementedError

    def difficulty(self, problem):
        return problem % 10


class Alike(Numbers):
    difficulty = Task.difficulty


def test_of_a_mixture_the_easiest_of_each_task_come_first():
    curriculum = Curriculum(Mixture([Numbers(), Alike()], [2, 1]), 12, 0.5)
    pool = curriculum.pool(0)
    easiest = curriculum.choose(pool)
    numbers = [mixed.problem % 10 for mixed in easiest if mixed.task == 0]
    assert {mixed.task for mixed in easiest} == {0, 1} and max(numbers) <= 3
    curriculum.level = 1.0
    hardest = curriculum.choose(pool)
    assert {mixed.task for mixed in hardest} == {0, 1} and not set(hardest) & set(easiest)
    with pytest.raises(ValueError, match="they are equally difficult"):
        Curriculum(Mixture([Alike(), Alike()]), 12, 0.5)


def test_without_one_problems_come_as_they_are():
    curriculum = Curriculum(Alike(), P, None)
    assert [curriculum.pool(i) for i in range(2)] == [[0, 1, 2], [3, 4, 5]]
    assert curriculum.choose([5, 4, 3]) == [5, 4, 3]
    assert curriculum.update([5, 4, 3], 1.0) == {} and curriculum.level == 0


def test_neighbours_at_the_level():
    """By their last digits 12 to 23 rank as 20 21 12 22 13 23 14 15 16 17 18 19: nine places to begin."""
    curriculum = Curriculum(Numbers(), P, 0.5)
    assert [curriculum.pool(i) for i in range(2)] == [list(range(12)), list(range(12, 24))]  # epochs share none
    expected = {0: [20, 21, 12], 0.05: [20, 21, 12], 0.1: [21, 12, 22], 0.5: [13, 23, 14], 1: [17, 18, 19]}
    for curriculum.level, problems in expected.items():
        assert curriculum.choose(curriculum.pool(1)) == problems


def test_the_level_follows_the_solve_rate():
    curriculum = Curriculum(Numbers(), P, 0.5)
    assert curriculum.update([1, 2, 9], 1.0) == {"curriculum_level": 0.0, "difficulty": 4.0}
    levels = [curriculum.level]
    for accuracy in (0.75, 0.5, *[0.0] * 9, *[1.0] * 20):
        curriculum.update([1, 2, 3], accuracy)
        levels.append(curriculum.level)
    assert levels[:3] == pytest.approx([0.1, 0.15, 0.15]) and levels[11] == 0 and levels[-1] == 1


def test_it_settles_where_the_policy_solves_the_share_that_is_aimed_at():
    """A policy that solves all up to difficulty 6 and nothing above."""
    curriculum = Curriculum(Numbers(), P, 0.5)
    rates = []
    for i in range(60):
        problems = curriculum.choose(curriculum.pool(i))
        rates.append(sum(problem % 10 <= 6 for problem in problems) / P)
        curriculum.update(problems, rates[-1])
    assert rates[:5] == [1.0] * 5
    assert 0.4 < sum(rates[20:]) / 40 < 0.6


def test_what_cannot_be():
    for rate in (0, 1, -0.1):
        with pytest.raises(ValueError, match=f"above 0 and below 1. Received: curriculum={rate}"):
            Curriculum(Numbers(), P, rate)
    with pytest.raises(ValueError, match="equally difficult. Received: curriculum=0.5, task=Alike"):
        Curriculum(Alike(), P, 0.5)
