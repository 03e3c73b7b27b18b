import dataclasses
import itertools
import random

from keras_aha.tasks import Countdown, CountdownProblem, DrawnTask, HeldOut, Mixture, Multiplication, Rows, Score, Task

import numpy as np
import pytest

TASK = Countdown(num_numbers=3, max_number=20, template="compact")


class Echo(Task):
    def problem(self, index):
        return index

    def prompt(self, problem):
        return str(problem)

    def score(self, problem, completion):
        return Score(float(completion == str(problem)), completion == str(problem), "correct")

    def held_out(self, n):
        return HeldOut(self, range(n))


def test_what_a_task_need_not_define():
    assert Echo().labels(3) == {}
    assert Echo().difficulty(3) == 0
    assert Echo().answer(" 3\n") == "3" and Echo().answer(" ") is None and Echo().reference(3) is None
    with pytest.raises(NotImplementedError, match="Echo has no worked solutions"):
        Echo().worked_solution(3, random.Random(0))


def test_the_answer_that_is_expected(tmp_path):
    """The same whether a task is asked, its held-out problems, or a mixture of tasks."""
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"prompt": "{n}+{n}?", "answer": {2 * n}}}\n' for n in range(40)))
    rows, products = Rows(tmp_path / "rows.jsonl", checker="number"), Multiplication()
    for task in (rows, rows.held_out(3)):
        row = task.problem(1)
        assert task.reference(row) == str(2 * int(row.prompt.partition("+")[0]))
    product = products.problem(1)
    assert products.reference(product) == products.held_out(3).reference(product) == str(product.first * product.second)
    mixture = Mixture([rows, products, Echo()])
    for task in (mixture, mixture.held_out(6)):
        row, product, number = (task.problem(i) for i in range(3))
        assert task.reference(row) == rows.reference(row.problem)
        assert task.reference(product) == str(product.problem.product) and task.reference(number) is None


@dataclasses.dataclass
class Sum:
    terms: list


@pytest.mark.parametrize("make", [lambda n: {"terms": [n]}, lambda n: [n, [n]], lambda n: Sum([n]), lambda n: {n}])
def test_problems_of_any_kind_with_a_text(make):
    """Dictionaries, lists, data classes that are not frozen: none of them can be hashed."""

    class Drawn(DrawnTask):
        prompt, score = Echo.prompt, Echo.score

        def draw(self, rng):
            return make(rng.randrange(40))

    task = Drawn()
    held_out = task.held_out(5).problems
    assert len({repr(problem) for problem in held_out}) == 5
    assert not any(task.problem(i) in held_out for i in range(100))
    with pytest.raises(ValueError, match="there are only"):
        task.held_out(40)


def test_no_puzzle_is_on_both_sides():
    held_out = {problem.canonical for problem in TASK.held_out(3000).problems}
    assert len(held_out) == 3000
    for seed in (0, 1):
        task = Countdown(num_numbers=3, max_number=20, seed=seed)
        assert held_out.isdisjoint(task.problem(index).canonical for index in range(3000))


def test_split_does_not_know_the_order():
    for problem in TASK.held_out(20).problems:
        orders = itertools.permutations(problem.numbers)
        assert all(TASK.is_held_out(CountdownProblem(order, problem.target)) for order in orders)
    share = np.mean([TASK.is_held_out(CountdownProblem((1, 2, 3), target)) for target in range(4000)])
    assert 0.22 < share < 0.28


def test_held_out_is_a_task():
    held_out = TASK.held_out(10)
    assert len(held_out) == 10
    assert held_out.problem(9) == TASK.held_out(30).problem(9)  # fewer are the first of more
    assert held_out.held_out(4).problems == held_out.problems[:4]
    problem = held_out.problem(0)
    assert held_out.prompt(problem) == TASK.prompt(problem)
    assert held_out.score(problem, f"<answer>{problem.solution}</answer>").correct
    assert held_out.labels(problem) == TASK.labels(problem)
    assert held_out.difficulty(problem) == TASK.difficulty(problem) == problem.difficulty
    assert held_out.worked_solution(problem, random.Random(1)) == TASK.worked_solution(problem, random.Random(1))
    for index in (10, -1):
        with pytest.raises(IndexError, match=f"problems 0 to 9. Received: index={index}"):
            held_out.problem(index)
    for n, sentence in ((11, "`n` must be at most 10: .* Received: n=11"), (0, "must be positive. Received: n=0")):
        with pytest.raises(ValueError, match=sentence):
            held_out.held_out(n)
    with pytest.raises(IndexError, match="Received: index=-1"):
        TASK.problem(-1)
