"""`TaskView`: some problems of another task."""

import random
from collections.abc import Callable, Sequence
from typing import Any

from keras_aha.tasks.task import Score, Task
from keras_aha.tasks.turn import Observation, Turn


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

    @property
    def max_turns(self) -> int:
        return self.task.max_turns

    @property
    def turn_ends(self) -> tuple[str, ...]:
        return self.task.turn_ends

    def respond(self, problem: Any, turns: Sequence[Turn]) -> Observation | None:
        return self.task.respond(problem, turns)

    def score_turns(self, problem: Any, turns: Sequence[Turn]) -> Score:
        return self.task.score_turns(problem, turns)

    def worked_turns(self, problem: Any, rng: random.Random, **habits) -> list[Turn]:
        return self.task.worked_turns(problem, rng, **habits)

    def worked_calls(self, problem: Any, rng: random.Random, call: Callable[..., str], **habits) -> str:
        return self.task.worked_calls(problem, rng, call, **habits)
