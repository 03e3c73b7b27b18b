import random
from collections import Counter

from keras_aha.tasks import Countdown, DrawnTask, HeldOut, Mixture, Multiplication, Score, Signs
from keras_aha.tasks.mixture import task_of

import pytest

COUNTDOWN = Countdown(num_numbers=3, max_number=9, max_target=30, template="compact")
SIGNS = Signs(max_number=9, max_target=30, template="compact")
PLAIN = {"max_attempts": 1, "verdicts": False, "restate": True, "max_value": 30}
MIXTURE = Mixture([COUNTDOWN, SIGNS], [3, 1], [PLAIN, {}], ["numbers", "signs"])
THREE = Mixture([COUNTDOWN, SIGNS, Multiplication(template="compact")], [2, 1, 1])


@pytest.mark.parametrize("epoch", [16, 10])
def test_shares_over_50_epochs(epoch):
    """Exact over all of them, and to a problem in each."""
    asked = [THREE.problem(i).task for i in range(50 * epoch)]
    assert Counter(asked) == {0: 25 * epoch, 1: 12.5 * epoch, 2: 12.5 * epoch}
    for start in range(0, len(asked), epoch):
        counts = Counter(asked[start : start + epoch])
        assert all(abs(counts[task] - epoch * share) <= 1 for task, share in enumerate((0.5, 0.25, 0.25)))


@pytest.mark.parametrize("first", [0, 2**32])  # of epochs, and of refills
@pytest.mark.parametrize("weights", [(3, 1), (1, 1e-7), (0.3, 0.7), (1, 2**0.5)])
def test_a_tasks_problems_come_in_its_order_and_none_is_left_out(weights, first):
    mixture = Mixture([Numbers(), Numbers()], weights)
    problems = [mixture.problem(i) for i in range(first, first + 3000)]
    assert problems[7] == Mixture([Numbers(), Numbers()], weights).problem(first + 7)
    for task, weight in enumerate(weights):
        numbers = [mixed.problem for mixed in problems if mixed.task == task]
        assert numbers == [*range(numbers[0], numbers[0] + len(numbers))] and (first or not numbers[0])
        assert len(numbers) / 3000 == pytest.approx(weight / sum(weights), abs=2e-3)


def test_a_list_comes_once_before_it_comes_again():
    mixture = Mixture([Numbers(), HeldOut(COUNTDOWN, range(5)), HeldOut(SIGNS, range(3))], [5, 2, 1])
    assert mixture.problem_count() is None and Mixture(mixture.tasks[1:], [2, 1]).problem_count() == 8
    listed = [mixture.problem(i) for i in mixture.listed()]
    assert sorted(listed) == [*((1, i) for i in range(5)), *((2, i) for i in range(3))]


class Numbers(DrawnTask):
    """Problem `index` is the index; harder is more. `equal` ones are all as hard."""

    def __init__(self, equal=False):
        self.equal = equal

    def problem(self, index):
        return index

    draw = prompt = str

    def score(self, problem, completion):
        return Score(0.0, False, "wrong_value")

    def difficulty(self, problem):
        return 3 if self.equal else 1000 * problem


def test_difficulty_is_a_rank_in_the_problems_own_task():
    mixture = Mixture([Numbers(), Numbers(equal=True)])
    ranks = [[mixture.difficulty(mixture.problem(i)) for i in range(task, 128, 2)] for task in (0, 1)]
    assert ranks[0] == sorted(ranks[0]) and all(abs(rank - i / 64) <= 1 / 64 for i, rank in enumerate(ranks[0]))
    assert ranks[1] != sorted(ranks[1]) and all(abs(rank - i / 64) < 0.15 for i, rank in enumerate(sorted(ranks[1])))
    equal = Mixture([Numbers(equal=True)] * 2)
    assert {equal.difficulty(equal.problem(i)) for i in range(9)} == {0}


def test_labels_that_all_tasks_have_and_the_task():
    mixture = Mixture([COUNTDOWN, Countdown(num_numbers=4), SIGNS], names=["three", "four", "signs"])
    assert [mixture.labels(mixture.problem(i)) for i in range(3)] == [{"task": name} for name in mixture.names]
    mixture = Mixture(mixture.tasks[:2])
    labels = [mixture.labels(mixture.problem(i)) for i in (0, 1)]
    own = [part.labels(part.problem(0)) for part in mixture.tasks]
    assert labels == [{"task": str(i)} | own[i] for i in (0, 1)] and own[0]


def test_what_a_problem_is_of():
    for task in (Mixture([COUNTDOWN, SIGNS]), MIXTURE.held_out(5)):
        assert [task_of(task, task.problem(i)) for i in (0, 1)] == [COUNTDOWN, SIGNS]
    assert task_of(SIGNS, None) is SIGNS and str(MIXTURE.problem(0)) == str(COUNTDOWN.problem(0))


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
    assert Counter(mixed.task for mixed in held_out.problems) == {0: 30, 1: 30}  # whatever the weights
    few = Mixture([COUNTDOWN, Countdown(num_numbers=2, max_number=3)], names=["many", "few"])
    with pytest.raises(ValueError, match="Of the task 'few', of which 200 / 2 are needed: `n` must be at most "):
        few.held_out(200)


BAD = [([],), ([COUNTDOWN], [0]), ([COUNTDOWN], [1, 1]), ([COUNTDOWN], [1], [{}, {}]), ([COUNTDOWN] * 2, (), (), "aa")]


@pytest.mark.parametrize("arguments", BAD)
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match="needs one task or more, and for each a weight above 0, .* Received: "):
        Mixture(*arguments)
