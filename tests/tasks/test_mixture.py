import random
from collections import Counter

from keras_aha.tasks import Countdown, Mixture, Signs

import pytest

COUNTDOWN = Countdown(num_numbers=3, max_number=9, max_target=30, template="compact")
SIGNS = Signs(max_number=9, max_target=30, template="compact")
PLAIN = {"max_attempts": 1, "verdicts": False, "restate": True, "max_value": 30}
MIXTURE = Mixture([COUNTDOWN, SIGNS], [3, 1], [PLAIN, {}], seed=1)


def test_shares_and_determinism():
    problems = [MIXTURE.problem(i) for i in range(2000)]
    assert problems == [Mixture([COUNTDOWN, SIGNS], [3, 1], seed=1).problem(i) for i in range(2000)]
    assert problems != [Mixture([COUNTDOWN, SIGNS], [3, 1], seed=2).problem(i) for i in range(2000)]
    assert 0.72 < Counter(problem.task for problem in problems)[0] / 2000 < 0.78
    for i, mixed in enumerate(problems[:50]):
        assert mixed.problem == MIXTURE.tasks[mixed.task].problem(i)
    assert {problem.task for problem in [Mixture([COUNTDOWN, SIGNS]).problem(i) for i in range(9)]} == {0, 1}


def test_each_task_writes_its_prompts_and_keeps_its_score():
    for mixed in [MIXTURE.problem(i) for i in range(100)]:
        task, problem = MIXTURE.tasks[mixed.task], mixed.problem
        solution = task.worked_solution(problem, random.Random(5), **MIXTURE.habits[mixed.task])
        assert MIXTURE.worked_solution(mixed, random.Random(5)) == solution
        assert MIXTURE.prompt(mixed) == task.prompt(problem)
        assert MIXTURE.score(mixed, solution) == task.score(problem, solution)


def test_what_is_held_out_is_so_in_its_task():
    held_out = MIXTURE.held_out(60)
    assert len(held_out) == len(set(held_out.problems)) == 60
    assert all(MIXTURE.tasks[mixed.task].is_held_out(mixed.problem) for mixed in held_out.problems)
    assert MIXTURE.held_out(20).problems == held_out.problems[:20]
    assert {mixed.task for mixed in held_out.problems} == {0, 1}


@pytest.mark.parametrize("arguments", [([],), ([COUNTDOWN], [0]), ([COUNTDOWN], [1, 1]), ([COUNTDOWN], [1], [{}, {}])])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match="needs one task or more, and for each a weight above 0 .* Received: "):
        Mixture(*arguments)
