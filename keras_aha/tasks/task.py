"""`Task`: makes problem *i*, writes its prompt, and scores a completion."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from keras_aha.tasks.turn import Observation, Turn, said

_NOT_WELL_FORMED = frozenset({"no_answer", "not_an_expression", "not_a_number", "not_readable", "error"})
_NOT_WELL_FORMED |= {"too_long", "too_slow"}


@dataclass(frozen=True)
class Score:
    """The graded record of one completion.

    Attributes:
        reward: what the policy is trained on, a float in [0, 1]; NaN if `score` failed, with the verdict `"error"`.
        correct: whether the problem is solved, whatever was deducted for form.
        verdict: the reason in one word, e.g. `"correct"` or `"wrong_value"`.
        lenient: whether the right answer stands anywhere, also in another form than the prompt asks for; `None` if the
            task does not tell.
    """

    reward: float
    correct: bool
    verdict: str
    lenient: bool | None = None

    @property
    def well_formed(self) -> bool:
        """Whether there was an answer that could be read at all, right or wrong."""
        return self.verdict not in _NOT_WELL_FORMED


class Task(ABC):
    """A source of problems that can score their completions exactly."""

    @abstractmethod
    def problem(self, index: int) -> Any:
        """Returns training problem `index`, the same one at every call, and never a held-out one.

        Raises:
            IndexError: if `index` is negative.
        """

    @abstractmethod
    def prompt(self, problem: Any) -> str:
        """Returns the text that a policy completes."""

    @abstractmethod
    def score(self, problem: Any, completion: str) -> Score:
        """Returns the `Score` of `completion`, the text that followed the prompt."""

    @abstractmethod
    def held_out(self, n: int) -> Task:
        """Returns a task of `len()` `n` whose problems are distinct and never trained on; fewer are the first of more.

        Raises:
            ValueError: if `n` is not positive or there are not so many.
        """

    def problem_count(self) -> int | None:
        """Returns how many training problems there are before they come again; `None` if they are drawn without an end.

        All of them are looked at before training.
        """
        return None

    def difficulty(self, problem: Any) -> float:
        """Returns a number that is larger for harder problems; 0 for all if a task cannot tell."""
        return 0

    def labels(self, problem: Any) -> dict[str, int | float | str]:
        """Returns the columns by which results on this problem may be grouped, the same ones for each problem."""
        return {}

    def answer(self, completion: str) -> str | None:
        """Returns what `completion` answers, as a text that is equal if answers say the same; `None` is no answer.

        A majority votes on it. By default it is the whole completion.
        """
        return completion.strip() or None

    def reference(self, problem: Any) -> str | None:
        """Returns the answer that is expected, in words that a judge can read; `None` if the task has none."""
        return None

    def worked_solution(self, problem: Any, rng: random.Random, **habits) -> str:
        """Returns a completion to imitate, drawn with `rng`; `habits` are the task's own.

        Raises:
            NotImplementedError: if the task has none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no worked solutions, so it cannot be used for priming.")

    # === Several turns: an environment is a task that answers ===

    @property
    def max_turns(self) -> int:
        """The most turns that a completion may have. A task that never answers has 1."""
        return 1

    @property
    def turn_ends(self) -> tuple[str, ...]:
        """Texts that end a turn, beside the stop tokens and stop strings of the rollouts, such as `("</search>",)`."""
        return ()

    def respond(self, problem: Any, turns: Sequence[Turn]) -> Observation | None:
        """Returns what the last of `turns`, which has no observation yet, is answered; `None` ends the completion.

        It depends on its arguments alone, so that a run that was killed goes on as if it had not been. An environment
        with a state of its own makes it from the problem, and goes through all turns again.
        """
        return None

    def score_turns(self, problem: Any, turns: Sequence[Turn]) -> Score:
        """Returns the `Score` of a completion in turns; by default of the policy's own words in all of them."""
        return self.score(problem, said(turns))

    def worked_turns(self, problem: Any, rng: random.Random, **habits) -> list[Turn]:
        """Returns turns to imitate, as `worked_solution` does a completion; the observations are read, not learned."""
        return [Turn(self.worked_solution(problem, rng, **habits))]

    def worked_calls(self, problem: Any, rng: random.Random, call: Callable[..., str], **habits) -> str:
        """Returns the last turn of a completion to imitate that calls tools before, see `WithTools.worked_turns`.

        Args:
            problem, rng, habits: as above.
            call: `call(words, name, **arguments)` writes a turn, some words and a call, and returns the answer.
        """
        raise NotImplementedError(f"{type(self).__name__} has no worked calls: leave out the habit `calls`.")
