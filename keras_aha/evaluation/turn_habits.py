"""What completions in turns do that they should not: they call without end, or write observations themselves."""

import re
from collections.abc import Sequence

from keras_aha.tasks.turn import Turn, said

_LAST_TAG = re.compile(r"<[^<>]*>\s*\Z")


def calls_without_end(turns: Sequence[Turn], truncated: bool) -> bool:
    """Whether a completion called twice or more and came to no end of its own.

    It ran into the limit on its length, or its last turn, which nothing answered, ends as an earlier call did.
    """
    calls = [turn for turn in turns if turn.observation and (turn.observation.tool or turn.observation.is_error)]
    last, *earlier = (_LAST_TAG.findall(turn.text) for turn in (turns[-1], *calls))
    unanswered = turns[-1].observation is None and last != [] and last in earlier
    return len(calls) > 1 and bool(truncated or unanswered)


def imitated_observations(completions: Sequence[Sequence[Turn]]) -> float:
    """The share of completions in whose own words a mark stands with which an observation of any of them begins.

    A mark is the last line of what stands `before` an observation, if it has 4 characters or more: ">" says nothing.
    """
    observations = [turn.observation for turns in completions for turn in turns if turn.observation]
    marks = {mark for x in observations if len(mark := x.before.strip().rpartition("\n")[2]) > 3}
    return sum(any(mark in said(turns) for mark in marks) for turns in completions) / len(completions)
