"""`Grader`: a task's score, other rewards beside it with their weights, and what a completion loses by its length."""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from keras_aha.tasks.task import Score, Task

import numpy as np

_SHOWN = 200  # characters of a completion in a warning
_LARGEST = float(np.finfo("float32").max)


class Grader:
    """Scores completions one at a time, and adds up their rewards.

    reward = the task's + Σ weight · other + penalty of the length

    A function that raises, or returns what is no finite number, costs that completion only: its reward is NaN, which
    `losses.group_advantages` takes as missing.

    Args:
        task: a `Task`.
        rewards: name → `(function, weight)`, where `function(problem, completion)` returns a number.
        penalties: `(C + 1,)`, what is added to the reward of a completion of 0 to C tokens; `None` adds nothing.

    Raises:
        ValueError: if an entry of `rewards` is something else, or its weight not finite.
    """

    def __init__(
        self,
        task: Task,
        rewards: Mapping[str, tuple[Callable[[Any, str], float], float]] | None = None,
        penalties: np.ndarray | None = None,
    ):
        self.task = task
        self.rewards = {name: _checked(name, entry) for name, entry in (rewards or {}).items()}
        self.penalties = penalties

    def grade(
        self, problems: list, texts: list[str], lengths: np.ndarray, reported: set[str]
    ) -> tuple[list[Score], dict[str, np.ndarray]]:
        """Grades B completions.

        Args:
            problems: B problems, one a completion.
            texts: B completions.
            lengths: `(B,)` of the completions, in tokens.
            reported: names of rewards of whose failure a warning has been given; there is one warning a name, with the
                completion that caused it, and the name is added.

        Returns:
            The task's scores, and what rewards are made of, each `(B,)`: `reward` float32, NaN where one failed; and
            where anything is added to the task's reward, `task_reward`, `reward_<name>`, `failed_rewards` (0 or 1) and
            `overlong_penalty`.
        """
        scores = [self.task.score(problem, text) for problem, text in zip(problems, texts, strict=True)]
        # In float64, so that sums that are equal on paper are equal in float32, where groups look for a difference.
        total = np.array([score.reward for score in scores], "float64")
        parts = {"task_reward": total.copy()} if self.rewards or self.penalties is not None else {}
        for name, (function, weight) in self.rewards.items():
            values = self._values(name, function, problems, texts, reported)
            parts[f"reward_{name}"] = values
            total += weight * values
        if self.rewards:
            parts["failed_rewards"] = np.isnan(total).astype("float64")
        if self.penalties is not None:
            parts["overlong_penalty"] = self.penalties[lengths]
            total += self.penalties[lengths]
        return scores, {"reward": total.astype("float32")} | parts

    def _values(self, name, function, problems, texts, reported):
        values = np.full(len(texts), np.nan)
        for i, (problem, text) in enumerate(zip(problems, texts, strict=True)):
            try:
                value = float(function(problem, text))
                failure = None if abs(value) <= _LARGEST else f"returned {value}"
            except Exception as error:  # whatever a user's function may raise
                failure = f"raised {error!r}"
            if failure is None:
                values[i] = value
            elif name not in reported:
                reported.add(name)
                warnings.warn(
                    f"The reward {name!r} {failure} for a completion, which is left out, as is any where it fails. "
                    f"Received: problem={str(problem)!r}, completion={text[:_SHOWN]!r}",
                    stacklevel=2,
                )
        return values


def reward_logs(scores: list[Score], rewards: dict[str, np.ndarray]) -> dict[str, float]:
    """Means of what `Grader.grade` returned, and `accuracy` and `format_rate`. Means leave failures out."""
    means = {name: _mean(values) for name, values in rewards.items()}
    accuracy = float(np.mean([score.correct for score in scores]))
    format_rate = float(np.mean([score.well_formed for score in scores]))
    return {"reward": means.pop("reward"), "accuracy": accuracy, "format_rate": format_rate} | means


def groups_with_signal(rewards: np.ndarray, group_size: int) -> np.ndarray:
    """Which groups have rewards that differ; the others have no advantages and teach nothing.

    Args:
        rewards: `(B,)`, NaN where missing.
        group_size: G, a divisor of B.

    Returns:
        `(P,)` bool.
    """
    groups = rewards.reshape(-1, group_size)
    missing = np.isnan(groups)
    return np.where(missing, np.inf, groups).min(axis=1) < np.where(missing, -np.inf, groups).max(axis=1)


def _checked(name, entry):
    function, weight = entry if isinstance(entry, tuple) and len(entry) == 2 else (entry, None)
    if not callable(function) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise ValueError(
            "`rewards` maps a name to a pair (function, weight), the weight a finite number. "
            f"Received: rewards[{name!r}]={entry!r}"
        )
    return function, weight


def _mean(values):
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
