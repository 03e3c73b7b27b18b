"""A completion in turns as one text, in which every line tells whose words it holds."""

import itertools
import re
from collections.abc import Mapping, Sequence

from keras_aha.tasks.turn import Turn

_MARK = "│ "
_UNESCAPED, _ESCAPED = re.compile(r"\A(?=\\*│)"), re.compile(r"\A\\(?=\\*│)")  # how lines of the policy's begin
_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # at which `str.splitlines` ends a line


def transcript(turns: Sequence[Turn]) -> str:
    r"""Writes turns below each other: lines of an observation begin with "│ ", and no line of the policy's does.

    A line of the policy's that begins with "│", or with backslashes and "│", gets a backslash in front. Line breaks
    around an observation are left out; else `split_transcript` gives all words back. A line ends where
    `str.splitlines` says.
    """
    parts = []
    for turn in turns:
        parts.append("".join(_UNESCAPED.sub(r"\\", line) for line in turn.text.splitlines(keepends=True)))
        if turn.observation is not None:
            lines = turn.observation.written.strip(_BREAKS).splitlines(keepends=True) or [""]
            parts.append("".join(_MARK + line for line in lines))
    return "\n".join(parts)


def split_transcript(text: str) -> list[tuple[str, bool]]:
    """A `transcript` → `(words, whether they are an observation)`, in order, as they were before it marked them."""
    pieces = []
    for observed, lines in itertools.groupby(text.splitlines(keepends=True), lambda line: line.startswith(_MARK)):
        words = "".join(line[len(_MARK) :] if observed else _ESCAPED.sub("", line) for line in lines)
        pieces.append((words, observed))
    return [(words.removesuffix("\n"), observed) for words, observed in pieces[:-1]] + pieces[-1:]


def shown(record: Mapping) -> str:
    """The transcript of a row of a table; its text if it has none, as if its task gives no answers."""
    text = record.get("transcript")
    return text if isinstance(text, str) else record["text"]
