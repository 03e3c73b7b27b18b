"""`Refills`: dynamic sampling: groups that teach nothing are replaced by fresh ones."""

from collections.abc import Callable

from keras_aha.tasks.task import Task
from keras_aha.training.grader import groups_with_signal
from keras_aha.training.rollout import Rollout

import numpy as np

_FIRST_PROBLEM = 2**32  # above the numbers of the epochs' own problems
_POOL = 4  # problems to choose from, for each that is sampled


class Refills:
    """Replaces groups whose rewards are all equal by fresh ones whose rewards differ, in `rounds`, 0 or more.

    DAPO's dynamic sampling, arXiv:2503.14476, §3.2, with a limit on the work. Each round samples ⌈P/4⌉ problems, which
    is `prompts`, so that shapes are fixed; if no group is left to replace, it samples none. A group that was all right,
    in the rollout or an earlier round, is followed by a harder problem, another one by an easier problem, as the task
    tells.

    Everything depends on the iteration alone. A round has problems and rows of its own, from problem 2³² on.

    Raises:
        ValueError: if `rounds` is negative.
    """

    def __init__(self, task: Task, prompts_per_epoch: int, group_size: int, rounds: int):
        if rounds < 0:
            raise ValueError(f"`refills` must be 0 or more rounds. Received: refills={rounds}")
        self.task = task
        self.group_size = group_size
        self.rounds = rounds
        self.prompts = -(-prompts_per_epoch // 4)

    def numbers(self, iteration: int) -> list[range]:
        """For each round those of the problems to choose from, four times as many as it samples."""
        size = _POOL * self.prompts
        starts = [_FIRST_PROBLEM + (iteration * self.rounds + i) * size for i in range(self.rounds)]
        return [range(start, start + size) for start in starts]

    def fill(self, rollout: Rollout, pools: list[list], sample: Callable) -> tuple[Rollout, int, int]:
        """Replaces groups of a rollout of B = P·G rows, from `pools` of problems, a round each.

        `sample(problems, first_row)` makes a `Rollout`, a group for each problem.

        Returns:
            The new rollout, the number of groups replaced, and of all tokens sampled for it.
        """
        to_fill = without_signal = np.flatnonzero(~groups_with_signal(rollout.rewards, self.group_size))
        rungs = [self._rung(rollout, group) for group in without_signal]
        first_row, tokens = len(rollout.texts), 0
        for pool in pools:
            if not len(to_fill):
                break
            steps = [rungs[i % len(rungs)] for i in range(self.prompts)]
            fresh = sample(next_problems(steps, pool, self.task.difficulty), first_row)
            first_row += len(fresh.texts)
            tokens += int(fresh.drawn.sum())
            signal = groups_with_signal(fresh.rewards, self.group_size)
            rungs = rungs[self.prompts :] + [self._rung(fresh, group) for group in np.flatnonzero(~signal)]
            good = np.flatnonzero(signal)[: len(to_fill)]
            rollout = rollout.with_rows(self._rows(to_fill[: len(good)]), fresh, self._rows(good))
            to_fill = to_fill[len(good) :]
        return rollout, len(without_signal) - len(to_fill), tokens

    def _rung(self, rollout, group):
        rows = self._rows(np.array([group]))
        return self.task.difficulty(rollout.problems[rows[0]]), all(rollout.scores[row].correct for row in rows)

    def _rows(self, groups):
        return (groups[:, None] * self.group_size + np.arange(self.group_size)).ravel()


def next_problems(rungs: list[tuple[float, bool]], pool: list, difficulty: Callable) -> list:
    """A problem of the pool for each rung, each taken once: the nearest that is harder, or that is easier.

    If there is none, it is the nearest of the others. Among equals it is the first. A rung is `(difficulty, harder)`:
    of the problem before, and whether to go up from it. The pool has as many problems as rungs or more, and
    `difficulty` is larger for harder ones.
    """
    left = [(difficulty(problem), problem) for problem in pool]
    chosen = []
    for start, harder in rungs:
        steps = [level - start if harder else start - level for level, _ in left]
        best = min(range(len(left)), key=lambda i: (steps[i] <= 0, abs(steps[i])))  # noqa: B023  used at once
        chosen.append(left.pop(best)[1])
    return chosen
