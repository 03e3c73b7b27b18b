"""The held-out side of a task: a fixed list of problems."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from keras_aha.tasks.task import Task
from keras_aha.tasks.task_view import TaskView


class HeldOut(TaskView):
    """A list of problems of another task, which still writes the prompts and keeps the score.

    Args:
        task: the task that the problems belong to.
        problems: its held-out problems, all distinct.
    """

    def __init__(self, task: Task, problems: Sequence[Any]):
        super().__init__(task)
        self.problems = tuple(problems)

    def __len__(self) -> int:
        return len(self.problems)

    def problem(self, index: int) -> Any:
        """Returns problem `index`; IndexError unless `0 <= index < len(self)`."""
        if not 0 <= operator.index(index) < len(self):
            raise IndexError(f"This held-out task has problems 0 to {len(self) - 1}. Received: index={index!r}")
        return self.problems[index]

    def held_out(self, n: int) -> HeldOut:
        if operator.index(n) < 1:
            raise ValueError(f"The number of held-out problems must be positive. Received: n={n!r}")
        if n > (count := len(self)):
            raise ValueError(
                f"`n` must be at most {count}: there are only {count} distinct held-out problems. Received: n={n}"
            )
        return HeldOut(self.task, self.problems[:n])

    def problem_count(self) -> int:
        return len(self)
