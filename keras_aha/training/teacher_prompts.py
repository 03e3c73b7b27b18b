"""`TeacherPrompts`: what a teacher with a hint reads in place of the prompts."""

import dataclasses
import math
import random
from typing import Any

from keras_aha.tasks.held_out_split import stable_hash
from keras_aha.tasks.task import Task
from keras_aha.tasks.task_view import TaskView
from keras_aha.training.ask import TaskError, class_name, shown
from keras_aha.training.padded_prompts import PaddedPrompts
from keras_aha.training.rollout import Rollout

import numpy as np


class TeacherPrompts(PaddedPrompts):
    """The prompts of `Teacher.hint`, of one length of their own. Their length has no limit; without a hint it is 0."""

    def __init__(self, task: Task):
        super().__init__(_Hinted(task), math.inf)

    def set_hint(self, hint: str | None) -> None:
        """Sets what the next calls fill in; `None` is no hint, and then they do nothing."""
        if hint != self.task.hint:
            self.task.hint = hint
            self._looked_at.clear()

    def look_at(self, tokenizer, numbers) -> None:
        """As of prompts; a problem without a solution cannot be used either."""
        if self.task.hint is not None:
            super().look_at(tokenizer, numbers)

    def beside(self, rollout: Rollout, model) -> Rollout:
        """The rollout with what the teacher reads; adjacent rows of one problem share it."""
        if self.task.hint is None:
            return rollout
        problems = rollout.problems
        first = [i for i, problem in enumerate(problems) if not i or problem is not problems[i - 1]]
        arrays = self.tokenize(model, [problems[i] for i in first])
        token_ids, padding_mask = (np.repeat(x, np.diff([*first, len(problems)]), axis=0) for x in arrays)
        return dataclasses.replace(rollout, teacher_prompt_ids=token_ids, teacher_prompt_mask=padding_mask)


class _Hinted(TaskView):
    """The task, whose prompts are hints."""

    hint: str | None = None

    def problem(self, index: int) -> Any:
        return self.task.problem(index)

    def held_out(self, n: int) -> Task:
        return self.task.held_out(n)

    def prompt(self, problem: Any) -> str:
        prompt = self.task.prompt(problem)
        try:
            solution = self.task.worked_solution(problem, random.Random(stable_hash(prompt)))
        except NotImplementedError:
            solution = self.task.reference(problem)
        if solution is None:
            raise TaskError(
                "A teacher's hint needs the solution of each problem: give the task a `worked_solution` or a "
                "`reference`, or leave the hint out. "
                f"Received: {class_name(self.task, problem)} has neither, for {shown(problem)}"
            )
        return self.hint.format(prompt=prompt, solution=solution)
