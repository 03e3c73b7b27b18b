"""What completions in turns do that they should not: they call without end, or write observations themselves."""

import re
from collections.abc import Sequence

from keras_aha.tasks.turn import Turn, said

_LAST_TAG = re.compile(r"<[^<>]*>\s*\Z")
_SHORTEST_MARK = 4  # characters: a blank or a ">" says nothing


def calls_without_end(turns: Sequence[Turn], truncated: bool) -> bool:
    """Whether a completion called twice or more and came to no end of its own.

    It ran into the limit on its length, or its last turn, which nothing answered, ends as an earlier call did.
    """
    calls = [turn for turn in turns if turn.observation and (turn.observation.tool or turn.observation.is_error)]
    if len(calls) < 2 or truncated:
        return len(calls) >= 2
    ends = {match.group() for turn in calls if (match := _LAST_TAG.search(turn.text))}
    last = _LAST_TAG.search(turns[-1].text)
    return turns[-1].observation is None and last is not None and last.group() in ends


def imitated_observations(completions: Sequence[Sequence[Turn]]) -> float:
    """The share of completions in whose own words a mark stands with which an observation of any of them begins.

    A mark is what stands `before` an observation, blanks at its ends aside, if it has 4 characters or more.
    """
    observations = [turn.observation for turns in completions for turn in turns if turn.observation]
    marks = {mark for x in observations if len(mark := x.before.strip()) >= _SHORTEST_MARK}
    return sum(any(mark in said(turns) for mark in marks) for turns in completions) / len(completions)
