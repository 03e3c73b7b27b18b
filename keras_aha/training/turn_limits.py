"""`TurnLimits`: what a turn, an observation and its making may take."""

import dataclasses
import math

from keras_aha.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class TurnLimits:
    """Limits of completions in several turns; how many turns there may be, the task says.

    Attributes:
        max_turn_length: tokens of a turn; one that runs into it ends its completion, as truncated. `None` is no limit
            but that of the completion, observations included.
        max_observation_length: tokens of an observation, all of it; the text of a longer one is cut, and what the task
            puts around it stays whole.
        response_seconds: that `Task.respond` may take; a completion for which it takes longer has no reward. `None` is
            no limit.
        response_workers: how many responses are made at once, in threads, while other rows are decoded; for tools that
            wait, such as servers. 0 makes them one by one while decoding waits: then completions are the same to the
            last bit, however fast the machine is.

    Raises:
        ValueError: if one is out of range.
    """

    max_turn_length: int | None = None
    max_observation_length: int = 256
    response_seconds: float | None = 10.0
    response_workers: int = 0

    def __post_init__(self):
        for name, least in {"max_turn_length": 1, "max_observation_length": 1, "response_workers": 0}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"`{name}` must be {least} or more. Received: {name}={value}")
        if self.response_seconds is not None and not 0 < self.response_seconds < math.inf:
            seconds = self.response_seconds
            raise ValueError(f"`response_seconds` must be above 0, or None. Received: response_seconds={seconds}")

    def within_completions(self, task: Task, max_completion_length: int) -> "TurnLimits":
        """These limits, where one is longer than a completion may be that of completions.

        It raises ValueError if the task's `max_turns` is no number of turns.
        """
        if isinstance(task.max_turns, bool) or not isinstance(task.max_turns, int) or task.max_turns < 1:
            raise ValueError(f"`max_turns` of a task must be a whole number from 1. Received: {task.max_turns!r}")
        return dataclasses.replace(self, max_observation_length=min(self.max_observation_length, max_completion_length))
