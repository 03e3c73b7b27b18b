"""`Refills`: dynamic sampling at fixed shapes: groups that teach nothing make way for fresh ones."""

from collections.abc import Callable

from keras_aha.tasks.task import Task
from keras_aha.training.grader import groups_with_signal
from keras_aha.training.rollout import Rollout

import numpy as np

_FIRST_PROBLEM = 2**32  # where no epoch's own problems come
_POOL = 4  # problems to choose from, for each that is sampled


class Refills:
    """Replaces groups without signal by fresh ones with signal, in rounds, as far as any are found.

    DAPO's dynamic sampling, arXiv:2503.14476, §3.2, with a limit on the work. In each round ⌈P/4⌉ problems are sampled,
    however many groups there are to replace; none where none is left. Problems come by a ladder: after a group that was
    all right, found in an earlier round or not, a harder one is tried, after another group an easier one.

    Everything depends on the iteration alone. A round has problems of its own, from number 2³² on, and rows of its own,
    so that the completions of a problem that comes again are others.

    Args:
        task: a `Task`, which says how difficult problems are.
        prompts_per_epoch: P.
        group_size: G.
        rounds: how many at most; 0 replaces nothing.

    Attributes:
        prompts: ⌈P/4⌉.

    Raises:
        ValueError: if `rounds` is negative.
    """

    def __init__(self, task: Task, prompts_per_epoch: int, group_size: int, rounds: int):
        if rounds < 0:
            raise ValueError(f"refills must be 0 or more rounds. Received: refills={rounds}")
        self.task = task
        self.group_size = group_size
        self.rounds = rounds
        self.prompts = -(-prompts_per_epoch // 4)

    def pools(self, iteration: int) -> list[list]:
        """The problems to choose from, for each round: four times as many as it samples."""
        size = _POOL * self.prompts
        starts = [_FIRST_PROBLEM + (iteration * self.rounds + i) * size for i in range(self.rounds)]
        return [[self.task.problem(index) for index in range(start, start + size)] for start in starts]

    def fill(
        self, rollout: Rollout, pools: list[list], sample: Callable[[list, int], Rollout]
    ) -> tuple[Rollout, int, int]:
        """Samples what is needed.

        Args:
            rollout: B = P·G rows.
            pools: of the iteration.
            sample: `(problems, first_row)` → a `Rollout`, a group for each problem.

        Returns:
            The rollout with other rows in the groups replaced, the number of these, and of all tokens sampled for it.
        """
        empty = flat = np.flatnonzero(~groups_with_signal(rollout.rewards, self.group_size))
        rungs = [self._rung(rollout, group) for group in flat]
        first_row, tokens = len(rollout.texts), 0
        for pool in pools:
            if not len(empty):
                break
            steps = [rungs[i % len(rungs)] for i in range(self.prompts)]
            found = sample(next_problems(steps, pool, self.task.difficulty), first_row)
            first_row += len(found.texts)
            tokens += int(found.lengths.sum())
            signal = groups_with_signal(found.rewards, self.group_size)
            rungs = rungs[self.prompts :] + [self._rung(found, group) for group in np.flatnonzero(~signal)]
            good = np.flatnonzero(signal)[: len(empty)]
            rollout = rollout.with_rows(self._rows(empty[: len(good)]), found, self._rows(good))
            empty = empty[len(good) :]
        return rollout, len(flat) - len(empty), tokens

    def _rung(self, rollout, group):
        rows = self._rows(np.array([group]))
        return self.task.difficulty(rollout.problems[rows[0]]), all(rollout.scores[row].correct for row in rows)

    def _rows(self, groups):
        return (groups[:, None] * self.group_size + np.arange(self.group_size)).ravel()


def next_problems(rungs: list[tuple[float, bool]], pool: list, difficulty: Callable) -> list:
    """A problem of the pool for each rung, each taken once: the nearest that is harder, or that is easier.

    Where there is none, it is the nearest of the others. Among equals it is the first, so that it is just the next
    problem where all are equally difficult.

    Args:
        rungs: `(difficulty, harder)`: of the problem before, and whether to go up from it.
        pool: problems, as many as rungs or more.
        difficulty: problem → number, larger where harder.
    """
    left = [(difficulty(problem), problem) for problem in pool]
    chosen = []
    for start, harder in rungs:
        steps = [level - start if harder else start - level for level, _ in left]
        best = min(range(len(left)), key=lambda i: (steps[i] <= 0, abs(steps[i])))  # noqa: B023  used at once
        chosen.append(left.pop(best)[1])
    return chosen
