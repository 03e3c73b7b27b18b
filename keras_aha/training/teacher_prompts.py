"""`TeacherPrompts`: what a teacher with a hint reads in place of the prompts."""

import dataclasses
import math
import random
from typing import Any

from keras_aha.tasks.held_out_split import stable_hash
from keras_aha.tasks.task import Task
from keras_aha.training.ask import TaskError, class_name, shown
from keras_aha.training.padded_prompts import PaddedPrompts
from keras_aha.training.rollout import Rollout

import numpy as np


class TeacherPrompts(PaddedPrompts):
    """The prompts of a `Teacher.hint`, of one length of their own, without a limit. While `hint` is None, nothing."""

    def __init__(self, task: Task):
        super().__init__(task, math.inf)
        self.hint = None

    def text(self, problem: Any) -> str:
        """The hint of a problem. Raises TaskError if it has no solution."""
        prompt = super().text(problem)
        try:
            solution = self.task.worked_solution(problem, random.Random(stable_hash(prompt)))
        except NotImplementedError:
            solution = self.task.reference(problem)
        if solution is None:
            raise TaskError(
                "A teacher's hint needs a `worked_solution` or a `reference` of each problem: leave it out, or add "
                f"one to the task. Received: {class_name(self.task, problem)} has neither, for {shown(problem)}"
            )
        return self.hint.format(prompt=prompt, solution=solution)

    def beside(self, rollout: Rollout, group_size: int, model) -> Rollout:
        """The rollout with what the teacher reads."""
        if self.hint is None:
            return rollout
        arrays = self.tokenize(model, rollout.problems[::group_size])
        token_ids, padding_mask = (np.repeat(x, group_size, axis=0) for x in arrays)
        return dataclasses.replace(rollout, teacher_prompt_ids=token_ids, teacher_prompt_mask=padding_mask)
