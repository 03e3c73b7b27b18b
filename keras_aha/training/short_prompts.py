"""`ShortPrompts`: the problems of a task's list whose prompts are short enough."""

import functools
import itertools
import warnings
from typing import Any

from keras_aha.models.special_tokens import prompt_ids
from keras_aha.tasks.drawn_task import check_index
from keras_aha.tasks.held_out import HeldOut
from keras_aha.tasks.task import Task
from keras_aha.tasks.task_view import TaskView
from keras_aha.training.ask import TaskError, ask_problem, ask_prompt
from keras_aha.training.padded_prompts import at_once


class ShortPrompts(TaskView):
    """The problems of a task that has a list, in its order, but for those whose prompts have more tokens than `limit`.

    They are looked for when they are first needed, and held-out ones when these are. A warning tells how many are left
    out.

    Args:
        task: a task that has a `problem_count`.
        tokenizer: the policy's.
        limit: in tokens, with the begin-token.
    """

    def __init__(self, task: Task, tokenizer, limit: int):
        super().__init__(task)
        self.tokenizer = tokenizer
        self.limit = limit

    def problem(self, index: int) -> Any:
        """Returns training problem `index`; TaskError if all prompts are too long."""
        return self.task.problem(self._numbers[check_index(index) % len(self._numbers)])

    def problem_count(self) -> int:
        return len(self._numbers)

    def held_out(self, n: int) -> HeldOut:
        """Returns the first `n` that are short; ValueError if there are not so many."""
        short, asked, looked_at = [], n, 0
        while looked_at < asked:
            try:
                problems = self.task.held_out(asked)
            except ValueError as error:
                if not looked_at:
                    raise
                words = (
                    f"`n` must be at most {len(short)}: no more held-out problems have prompts that are short enough"
                )
                raise ValueError(f"{words}. Received: n={n}") from error
            fresh = [problems.problem(i) for i in range(looked_at, asked)]
            short += itertools.compress(fresh, self._are_short(fresh))
            looked_at, asked = asked, asked + n - len(short)
        self._tell(looked_at - n, f"the first {looked_at} held-out problems")
        return HeldOut(self, short)

    @functools.cached_property
    def _numbers(self) -> list[int]:
        """Of the problems that are short."""
        count, numbers = self.task.problem_count(), []
        for some in at_once(range(count)):
            numbers += itertools.compress(some, self._are_short([ask_problem(self.task, i) for i in some]))
        if not numbers:
            raise TaskError(f"All {count} prompts are too long: raise max_prompt_length. Received: {self.limit}")
        self._tell(count - len(numbers), f"{count} problems to train on")
        return numbers

    def _are_short(self, problems: list) -> list[bool]:
        rows = prompt_ids(self.tokenizer, [ask_prompt(self.task, problem) for problem in problems])
        return [len(row) <= self.limit for row in rows]

    def _tell(self, left_out: int, of_what: str) -> None:
        if left_out:
            sentence = f"{left_out} of {of_what} are left out: their prompts have more than {self.limit} tokens."
            warnings.warn(sentence, stacklevel=1)
