"""`Grader`: a task's score, other rewards beside it with their weights, and what a completion loses by its length."""

import functools
import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from keras_aha.tasks.checkers.unchecked import UNCHECKED
from keras_aha.tasks.task import Score, Task
from keras_aha.tasks.turn import Turn
from keras_aha.training.ask import TaskError, class_name, report_failure, shown
from keras_aha.training.judges.judge import Judge
from keras_aha.training.time_limit import TimeLimitError, within

import numpy as np

_LARGEST = float(np.finfo("float32").max)
_MISSING = Score(math.nan, False, "error")
_SCORE = "Score(reward, correct, verdict) of keras_aha.tasks whose reward is a finite number"


class Grader:
    """Scores completions, and adds up their rewards.

    reward = task_weight · the task's + Σ weight · other + penalty of the length

    A reward fails if its function raises, takes longer than it may (see `time_limit.within`, which also tells what it
    cannot interrupt), or returns what is no finite number: `None`, a text, a list, an array that is no scalar, NaN.
    Booleans and scalars of NumPy or JAX are numbers. The task's own `score` fails so too, and if it returns no
    `Score`. A failure costs that completion only: its reward is NaN, which `losses.group_advantages` takes as missing.

    A function whose first parameter is called `problems` is called once, with the lists of all problems and all
    completions, and returns as many numbers. If that call fails, it costs all of these completions. So is a `Judge`,
    which has no limit but its own, and may fail on some of them.

    Args:
        task: a `Task`.
        rewards: name → `(function, weight)`, where `function(problem, completion)` returns a number. With weight 0 it
            is only logged. The name "task" is the task's own.
        task_weight: of the task's own reward; 0 only logs it, as if a judge alone is to decide.
        penalties: `(C + 1,)`, what is added to the reward of a completion of 0 to C tokens; `None` adds nothing.
        seconds: that a call may take for each completion that it is of; `None` for no limit.
        on_error: "skip", or "stop", which makes the first failure an error.

    Raises:
        ValueError: if an argument is none of these.
    """

    def __init__(
        self,
        task: Task,
        rewards: Mapping[str, tuple[Callable[[Any, str], float], float]] | None = None,
        penalties: np.ndarray | None = None,
        *,
        task_weight: float = 1.0,
        seconds: float | None = 5.0,
        on_error: str = "skip",
    ):
        if seconds is not None and not 0 < seconds < math.inf:
            raise ValueError(f"`reward_seconds` must be above 0, or None. Received: reward_seconds={seconds}")
        if on_error not in ("skip", "stop"):
            raise ValueError(f"`on_reward_error` must be one of skip, stop. Received: on_reward_error={on_error!r}")
        if not 0 <= task_weight < math.inf:
            raise ValueError(f"`task_weight` must be a finite number, 0 or more. Received: task_weight={task_weight}")
        self.task = task
        self.task_weight = task_weight
        self.rewards = {name: _checked(name, entry) for name, entry in (rewards or {}).items()}
        self.penalties = penalties
        self.seconds = seconds
        self.on_error = on_error

    def grade(
        self,
        problems: list,
        texts: list[str],
        lengths: np.ndarray,
        reported: dict[str, str],
        turns: Sequence[Sequence[Turn]] = (),
        failed: Collection[int] = (),
    ) -> tuple[list[Score], dict[str, np.ndarray]]:
        """Grades B completions of B problems.

        Args:
            problems, texts: one a completion.
            lengths: `(B,)` of the completions, in tokens, those of observations included.
            reported: the failures so far, by the reward: a new one is added, with a warning.
            turns: of each completion, which the task's `score_turns` is given; none of a task that does not answer.
            failed: completions that have no reward, as a response to them failed.

        Returns:
            The task's scores, and arrays `(B,)`: `reward` float32, NaN if one failed; and if anything is added to the
            task's reward, the parts `task_reward`, `reward_<name>` and `overlong_penalty`.

        Raises:
            TaskError: at the first failure, if `on_error` is "stop".
        """
        words = enumerate(zip(problems, turns or texts, strict=True))
        scores = [_MISSING if row in failed else self.score(*graded, reported) for row, graded in words]
        # In float64, so that sums that are equal on paper are equal in float32, where groups look for a difference.
        own = np.array([score.reward for score in scores], "float64")
        parts = {"task_reward": own} if self.rewards or self.penalties is not None else {}
        total = self.task_weight * own
        for name, (function, weight) in self.rewards.items():
            values = self._values(f"The reward {name!r}", function, problems, texts, reported)
            parts[f"reward_{name}"] = np.array(values, "float64")  # NaN for None
            total += weight * parts[f"reward_{name}"]
        if self.penalties is not None:
            parts["overlong_penalty"] = self.penalties[lengths]
            total += self.penalties[lengths]
        return scores, {"reward": total.astype("float32")} | parts

    def score(self, problem, said: str | Sequence[Turn], reported: dict[str, str]) -> Score:
        """The task's score of a text or of turns; if it fails, the reward is NaN and the verdict "error"."""
        function, name = self._function(in_turns=not isinstance(said, str))
        who = f"{class_name(self.task, problem)}.{name}"
        return self._try(who, function, _as_score, problem, said, reported) or _MISSING

    def try_score(self, problem) -> None:
        """Raises TaskError if the task's score of an empty text is no `Score`; if it raises, others may not do so."""
        in_turns = self.task.max_turns > 1
        function, name = self._function(in_turns)
        try:
            returned = within(self.seconds, function, problem, (Turn(""),) if in_turns else "")
        except (Exception, SystemExit):
            return
        if _as_score(returned) is None:
            who = f"`{class_name(self.task, problem)}.{name}`"
            raise TaskError(f"{who} must return a {_SCORE}. Received: {shown(returned)}, for {shown(problem)}")

    def _function(self, in_turns):
        return (self.task.score_turns, "score_turns") if in_turns else (self.task.score, "score")

    def check_any(self, rewards: np.ndarray, reported: dict[str, str]) -> None:
        """Raises TaskError, with the first failure of `reported`, if all `rewards` of an epoch are missing."""
        if np.isnan(rewards).all():
            first = next(iter(reported.values()), "on other processes.")
            raise TaskError(f"The reward of every completion failed, so there is nothing to learn from: {first}")

    def _values(self, who, function, problems, texts, reported) -> list[float | None]:
        """A function's rewards of B completions, None for each that it fails on."""
        calls = [function] * len(texts)
        if _takes_lists(function):
            read = functools.partial(_as_list, len(texts))
            returned = self._try(who, function, read, list(problems), list(texts), reported, len(texts))
            if returned is None:
                return [None] * len(texts)
            calls = [functools.partial(_give, value) for value in returned]  # each may still be no number
        rows = zip(calls, problems, texts, strict=True)
        return [self._try(who, call, _as_number, problem, text, reported) for call, problem, text in rows]

    def _try(self, who, function, read, problem, text, reported, completions=1):
        """What `read` makes of `function(problem, text)`; None if either fails, which is reported."""
        # A judge has limits of its own, and what it compiles at first may take minutes.
        cause, seconds = None, None if isinstance(function, Judge) else self.seconds and self.seconds * completions
        try:
            returned = within(seconds, function, problem, text)
            value = read(returned)
            if value is not None:
                return value
            expected = {_as_number: "finite number", _as_score: _SCORE}.get(read, f"list of {completions} numbers")
            failure = f"returned {shown(returned)}, which is no {expected}"
        except TimeLimitError:
            failure = f"took longer than {seconds:g} s"
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever a user's function may raise
            cause, failure = error, f"raised {shown(error)}"
        message = f"{who} {failure}. Received: problem={shown(problem)}, completion={shown(text)}"
        report_failure("reward", who, message, reported, self.on_error, cause)
        return None


def reward_logs(scores: list[Score], rewards: dict[str, np.ndarray]) -> dict[str, float]:
    """Means of what `Grader.grade` returned, `accuracy`, `format_rate`, and `failed_rewards`, a share of completions.

    Means leave failures out; but a completion whose score failed counts as not correct. The rates of a task without a
    checker are NaN.
    """
    means = {name: _mean(values) for name, values in rewards.items()}
    means["failed_rewards"] = float(np.mean(np.isnan(rewards["reward"])))
    checked = [score for score in scores if score.verdict != UNCHECKED]
    rates = {"accuracy": [score.correct for score in checked], "format_rate": [score.well_formed for score in checked]}
    return {"reward": means.pop("reward")} | {name: _mean(np.array(flags)) for name, flags in rates.items()} | means


def groups_with_signal(rewards: np.ndarray, group_size: int) -> np.ndarray:
    """`(P,)` bool: which groups of `(P·G,)` rewards, NaN if missing, differ. The others teach nothing."""
    groups = rewards.reshape(-1, group_size)
    return np.fmin.reduce(groups, axis=1) < np.fmax.reduce(groups, axis=1)  # which pass over NaN


def _checked(name, entry):
    if name == "task":
        raise ValueError(
            "`rewards` cannot hold the task's own reward: `task_weight` is its weight. "
            f"Received: rewards['task']={entry!r}"
        )
    function, weight = entry if isinstance(entry, tuple) and len(entry) == 2 else (entry, None)
    if not callable(function) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise ValueError(
            "`rewards` maps a name to a pair (function, weight), the weight a finite number. "
            f"Received: rewards[{name!r}]={entry!r}"
        )
    return function, weight


def _as_number(value) -> float | None:
    # Not what NumPy would make a number of with a warning, such as an array of one element.
    try:
        if isinstance(value, str | bytes | bytearray) or np.ndim(value) or np.iscomplexobj(value):
            return None
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if abs(number) <= _LARGEST else None


def _takes_lists(function) -> bool:
    try:
        return next(iter(inspect.signature(function).parameters), None) == "problems"
    except (TypeError, ValueError):  # of functions in C
        return False


def _give(value, problem, completion):
    """What was returned for a completion; a judge returns an exception for one that it cannot judge."""
    if isinstance(value, Exception):
        raise value
    return value


def _as_list(count: int, value) -> list | None:
    try:
        return list(value) if len(value) == count else None
    except TypeError:
        return None


def _as_score(value) -> Score | None:
    reward = _as_number(value.reward) if isinstance(value, Score) else None
    if reward is None:
        return None
    lenient = None if value.lenient is None else bool(value.lenient)
    return Score(reward, bool(value.correct), str(value.verdict), lenient)


def _mean(values):
    known = values[~np.isnan(values)] if len(values) else values
    return float(known.mean()) if len(known) else math.nan
