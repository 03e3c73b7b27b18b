"""`TaskView`: some problems of another task."""

import random
from typing import Any

from keras_aha.tasks.task import Score, Task


class TaskView(Task):
    """The base of tasks that choose among the problems of `task`, which still writes prompts and keeps the score."""

    def __init__(self, task: Task):
        self.task = task

    def prompt(self, problem: Any) -> str:
        return self.task.prompt(problem)

    def score(self, problem: Any, completion: str) -> Score:
        return self.task.score(problem, completion)

    def difficulty(self, problem: Any) -> float:
        return self.task.difficulty(problem)

    def labels(self, problem: Any) -> dict[str, int | float | str]:
        return self.task.labels(problem)

    def answer(self, completion: str) -> str | None:
        return self.task.answer(completion)

    def reference(self, problem: Any) -> str | None:
        return self.task.reference(problem)

    def worked_solution(self, problem: Any, rng: random.Random, **habits) -> str:
        return self.task.worked_solution(problem, rng, **habits)
