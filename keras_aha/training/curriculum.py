"""`Curriculum`: problems as difficult as the policy can learn from."""

from keras_aha.tasks.task import Task
from keras_aha.training.ask import ask, ask_problem

import numpy as np

_POOL = 4  # problems to choose from, for each that is sampled
_GAIN = 0.2  # levels that a solve rate moves, for each point that it is off


class Curriculum:
    """Chooses an epoch's problems so that the policy solves about a given share of them.

    A group of completions teaches most if half of it is right. So 4·P problems are put in the order of their
    difficulty, and P neighbours of them are taken: the easiest at level 0, the hardest at level 1. After each rollout
    the level moves by 0.2 · (accuracy − `solve_rate`). The number of problems, and so every shape, never changes.

    Args:
        task: a `Task` whose `difficulty` tells problems apart.
        prompts_per_epoch: P.
        solve_rate: the share of completions that should be right; `None` takes all problems in their order.

    Attributes:
        level: from 0 to 1, of the next epoch.

    Raises:
        ValueError: if the solve rate is not between 0 and 1, or the task's problems are all equally difficult.
    """

    def __init__(self, task: Task, prompts_per_epoch: int, solve_rate: float | None):
        if solve_rate is not None and not 0 < solve_rate < 1:
            raise ValueError(f"`curriculum` must be above 0 and below 1. Received: curriculum={solve_rate}")
        self.task = task
        self.prompts_per_epoch = prompts_per_epoch
        self.solve_rate = solve_rate
        self.level = 0.0
        pool = self.pool(0) if solve_rate is not None else ()
        if len({ask(task, "difficulty", x, "a number", int | float | np.number) for x in pool}) == 1:
            raise ValueError(
                "A curriculum needs a task whose problems differ in their `difficulty`: they are equally difficult. "
                f"Received: curriculum={solve_rate}, task={type(task).__name__}"
            )

    def numbers(self, iteration: int) -> range:
        """Of the problems that an epoch may have: from i·4·P on; without a solve rate P of them, from i·P on."""
        size = self.prompts_per_epoch * (1 if self.solve_rate is None else _POOL)
        return range(iteration * size, (iteration + 1) * size)

    def pool(self, iteration: int) -> list:
        """The problems of these numbers."""
        return [ask_problem(self.task, i) for i in self.numbers(iteration)]

    def choose(self, pool: list) -> list:
        """The P problems of a pool that stand at the level; without a solve rate all of the pool."""
        ranked = sorted(pool, key=self.task.difficulty) if self.solve_rate is not None else pool
        first = round(self.level * (len(ranked) - self.prompts_per_epoch))
        return ranked[first : first + self.prompts_per_epoch]

    def update(self, problems: list, accuracy: float) -> dict[str, float]:
        """Moves the level, by the share of completions of `problems` that is right.

        Returns:
            Logs: the `curriculum_level` at which the problems were chosen, and their mean `difficulty`; none without a
            solve rate.
        """
        if self.solve_rate is None:
            return {}
        difficulty = float(np.mean([self.task.difficulty(problem) for problem in problems]))
        logs = {"curriculum_level": self.level, "difficulty": difficulty}
        self.level = min(max(self.level + _GAIN * (accuracy - self.solve_rate), 0.0), 1.0)
        return logs
