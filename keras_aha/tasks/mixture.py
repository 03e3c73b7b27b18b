"""`Mixture`: several tasks as one, each with its share of the problems."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keras_aha.tasks.drawn_task import check_index
from keras_aha.tasks.held_out import HeldOut
from keras_aha.tasks.held_out_split import stable_hash
from keras_aha.tasks.task import Score, Task


@dataclass(frozen=True)
class MixedProblem:
    """A problem of one of a mixture's tasks, whose number `task` is."""

    task: int
    problem: Any

    def __str__(self) -> str:
        return str(self.problem)


class Mixture(Task):
    """Problems of several tasks, a pure function of `(seed, index)`: each task writes its prompts and keeps its score.

    Args:
        tasks: the tasks.
        weights: how often each is asked, one number above 0 a task; `None` is all as often.
        habits: keyword arguments of each task's `worked_solution`, one dictionary a task; `None` is none.
        seed: decides which task problem `index` belongs to; the problems are those of the task from its first on.

    Raises:
        ValueError: if there are no tasks, or not as many weights or habits, or a weight is not above 0.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        weights: Sequence[float] | None = None,
        habits: Sequence[dict] | None = None,
        seed: int = 0,
    ):
        self.tasks = tuple(tasks)
        self.weights = tuple(weights or [1.0] * len(self.tasks))
        self.habits = tuple(habits or [{}] * len(self.tasks))
        self.seed = seed
        if not self.tasks or not len(self.tasks) == len(self.weights) == len(self.habits) or min(self.weights) <= 0:
            raise ValueError(
                "A mixture needs one task or more, and for each a weight above 0 and a dictionary of habits. "
                f"Received: {len(self.tasks)} tasks, weights={weights}, habits={habits}"
            )

    def problem(self, index: int) -> MixedProblem:
        task = self._choose("problem", check_index(index))
        return MixedProblem(task, self.tasks[task].problem(index))

    def prompt(self, problem: MixedProblem) -> str:
        return self.tasks[problem.task].prompt(problem.problem)

    def score(self, problem: MixedProblem, completion: str) -> Score:
        return self.tasks[problem.task].score(problem.problem, completion)

    def held_out(self, n: int) -> HeldOut:
        chosen = [self._choose("held-out problem", index) for index in range(n)]
        parts = {task: self.tasks[task].held_out(count) for task, count in Counter(chosen).items()}
        used = Counter()
        problems = []
        for task in chosen:
            problems.append(MixedProblem(task, parts[task].problem(used[task])))
            used[task] += 1
        return HeldOut(self, problems).held_out(n)

    def difficulty(self, problem: MixedProblem) -> float:
        return self.tasks[problem.task].difficulty(problem.problem)

    def labels(self, problem: MixedProblem) -> dict[str, int]:
        """Returns `task`, its number in `tasks`."""
        return {"task": problem.task}

    def worked_solution(self, problem: MixedProblem, rng: random.Random, **habits) -> str:
        """Returns one of the problem's task, with that task's `habits`; those given here are for all tasks."""
        own = self.habits[problem.task] | habits
        return self.tasks[problem.task].worked_solution(problem.problem, rng, **own)

    def _choose(self, what: str, index: int) -> int:
        rng = random.Random(stable_hash(what, self.seed, index))
        return rng.choices(range(len(self.tasks)), self.weights)[0]
