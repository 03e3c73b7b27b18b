"""`Mixture`: several tasks as one, each with its share of the problems."""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from keras_aha.tasks.drawn_task import check_index
from keras_aha.tasks.held_out import HeldOut
from keras_aha.tasks.held_out_split import stable_hash
from keras_aha.tasks.task import Score, Task


class MixedProblem(NamedTuple):
    """A problem of one of a mixture's tasks, whose number `task` is."""

    task: int
    problem: Any


class Mixture(Task):
    """Problems of several tasks, a pure function of `(seed, index)`: each task writes its prompts and keeps its score.

    Args:
        tasks: the tasks.
        weights: how often each is asked, one number above 0 a task; empty is all as often.
        habits: keyword arguments of each task's `worked_solution`, one dictionary a task; empty is none.
        seed: decides which task problem `index` belongs to; it is that task's problem `index`.

    Raises:
        ValueError: if there are no tasks, or not as many weights or habits, or a weight is not above 0.
    """

    def __init__(
        self, tasks: Sequence[Task], weights: Sequence[float] = (), habits: Sequence[dict] = (), seed: int = 0
    ):
        self.tasks = tuple(tasks)
        self.weights = tuple(weights) or (1.0,) * len(self.tasks)
        self.habits = tuple(habits) or ({},) * len(self.tasks)
        self.seed = seed
        if not self.tasks or not len(self.tasks) == len(self.weights) == len(self.habits) or min(self.weights) <= 0:
            raise ValueError(
                "A mixture needs one task or more, and for each a weight above 0 and a dictionary of habits. "
                f"Received: {len(self.tasks)} tasks, weights={weights}, habits={habits}"
            )

    def problem(self, index: int) -> MixedProblem:
        rng = random.Random(stable_hash("problem", self.seed, check_index(index)))
        task = rng.choices(range(len(self.tasks)), self.weights)[0]
        return MixedProblem(task, self.tasks[task].problem(index))

    def prompt(self, problem: MixedProblem) -> str:
        return self.tasks[problem.task].prompt(problem.problem)

    def score(self, problem: MixedProblem, completion: str) -> Score:
        return self.tasks[problem.task].score(problem.problem, completion)

    def held_out(self, n: int) -> HeldOut:
        """Returns held-out problems of each task in turn, whatever the weights."""
        count = len(self.tasks)
        parts = [task.held_out(-(-n // count)) for task in self.tasks]
        problems = [MixedProblem(i % count, parts[i % count].problem(i // count)) for i in range(n)]
        return HeldOut(self, problems).held_out(n)

    def worked_solution(self, problem: MixedProblem, rng: random.Random, **habits) -> str:
        """Returns one of the problem's task, with that task's `habits`; those given here are for all tasks."""
        own = self.habits[problem.task] | habits
        return self.tasks[problem.task].worked_solution(problem.problem, rng, **own)
