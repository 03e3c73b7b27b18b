"""`Conversations`: a task answers the turns of a policy, while it is sampled."""

from typing import Any

from keras_aha.decoding.answers import Answers
from keras_aha.decoding.completions import Completions
from keras_aha.models.special_tokens import TURN_ENDS, stop_token_ids
from keras_aha.tasks.task import Task
from keras_aha.tasks.turn import Observation, Turn
from keras_aha.training.ask import class_name, report_failure, shown
from keras_aha.training.observation_ids import ObservationIds
from keras_aha.training.response_pool import Response, ResponsePool
from keras_aha.training.time_limit import TimeLimitError, within
from keras_aha.training.turn_limits import TurnLimits

import numpy as np

_OBSERVATION = "no Observation whose text, before, after and tool are texts, and not None"


class Conversations(Answers):
    """The turns of all completions of one `generate`, which is given it as `answers`; close it afterwards.

    A response fails if `Task.respond` raises, takes too long, or returns what is neither an `Observation` nor `None`.
    This ends its completion, which gets no reward.

    Args:
        task: a `Task` of several turns.
        problems: one a completion.
        tokenizer: the policy's.
        stop_tokens: of the rollouts. The one that ends a turn is no part of its text.
        limits: of turns.
        reported: the failures so far, by the method: a new one is added, with a warning.
        on_error: "skip", or "stop", which makes the first failure an error.

    Attributes:
        failed: rows of completions to which a response failed.
    """

    def __init__(
        self,
        task: Task,
        problems: list[Any],
        tokenizer,
        *,
        stop_tokens: tuple[str, ...] = TURN_ENDS,
        limits: TurnLimits,
        reported: dict[str, str],
        on_error: str = "skip",
    ):
        self.task, self.problems, self.tokenizer = task, problems, tokenizer
        self.max_length, self.max_turn_length = limits.max_observation_length, limits.max_turn_length
        self.seconds, self.reported, self.on_error = limits.response_seconds, reported, on_error
        self.failed = set()
        self._stop_ids = stop_token_ids(tokenizer, stop_tokens)
        self._observation_ids = ObservationIds(tokenizer, stop_tokens, self.max_length)
        self._turns = [[] for _ in problems]
        self._heard = [0] * len(problems)  # the policy's tokens in these turns
        self._answers, self._asked = {}, []
        self._pool = ResponsePool(limits.response_workers, self.seconds) if limits.response_workers else None

    def ask(self, row: int, token_ids: np.ndarray) -> None:
        turns = self._turns[row]
        turns.append(Turn(self._text(token_ids)))
        self._heard[row] += len(token_ids)
        if len(turns) >= self.task.max_turns:
            self._answers[row] = None
        elif self._pool is None:
            self._asked.append(row)
        else:
            self._pool.submit(self._response(row))

    def take(self, wait: bool) -> dict[int, np.ndarray | None]:
        if self._pool is None:
            rows, self._asked = sorted(self._asked), []
            for row in rows:  # each is known before the next is asked for
                response = self._response(row)
                try:
                    within(self.seconds, response.make)
                except TimeLimitError as error:
                    response.error = error
                self._answers[row] = self._answer(response)
        else:
            for response in self._pool.take(wait and not self._answers):
                self._answers[response.key] = self._answer(response)
        answers, self._answers = self._answers, {}
        return answers

    def close(self) -> None:
        """Ends the threads, if there are any."""
        if self._pool is not None:
            self._pool.close()

    def turns(self, completions: Completions) -> list[tuple[Turn, ...]]:
        """The turns of each completion, the last one too if it was cut and so nobody was asked."""
        rows = zip(completions.token_ids, completions.lengths, completions.observed, strict=True)
        for row, (token_ids, length, observed) in enumerate(rows):
            rest = token_ids[:length][~observed[:length]][self._heard[row] :]
            if len(rest):
                self._turns[row].append(Turn(self._text(rest)))
        return [tuple(turns) for turns in self._turns]

    def _text(self, token_ids) -> str:
        ids = token_ids[:-1] if token_ids[-1] in self._stop_ids else token_ids
        ids = ids[ids < self.tokenizer.vocabulary_size()].tolist()  # a model's may be larger, and is no text then
        return self.tokenizer.detokenize([ids])[0] if ids else ""

    def _response(self, row) -> Response:
        return Response(row, self.task.respond, self.problems[row], tuple(self._turns[row]))

    def _answer(self, response) -> np.ndarray | None:
        """What the row reads, or `None`, which ends it."""
        row, value, error = response.key, response.value, response.error
        if isinstance(error, KeyboardInterrupt):
            raise error
        if error is None and value is None:
            return None
        turn = self._turns[row][-1]
        if isinstance(error, TimeLimitError):
            failure = f"took longer than {self.seconds} s"
        elif error is not None:
            failure = f"raised {shown(error)}"
        elif not _is_observation(value):
            failure = f"returned {shown(value)}, which is {_OBSERVATION}"
        else:
            try:
                ids, observation = self._observation_ids(value)
                self._turns[row][-1] = turn._replace(observation=observation)
                return None if observation.done else ids
            except ValueError as cut:
                failure, error = f"returned what cannot be read: {cut}", cut
        self.failed.add(row)
        problem = self.problems[row]
        who = f"{class_name(self.task, problem)}.respond"
        message = f"{who} {failure}. Received: problem={shown(problem)}, turn={shown(turn.text)}"
        report_failure("response", who, message, self.reported, self.on_error, error)
        return None


def _is_observation(value) -> bool:
    if not isinstance(value, Observation):
        return False
    return all(isinstance(text, str) for text in (value.text, value.before, value.after, value.tool))
