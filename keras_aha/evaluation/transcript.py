"""A completion in turns as one text, in which every line tells whose words it holds."""

import itertools
import re
from collections.abc import Mapping, Sequence

from keras_aha.tasks.turn import Turn

_MARK = "│ "
_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # at which `str.splitlines` ends a line
_MARKED = re.compile(r"\\*│")  # how a line of the policy's own that must be escaped begins


def transcript(turns: Sequence[Turn]) -> str:
    r"""Writes turns below each other: lines of an observation begin with "│ ", and no line of the policy's does.

    A line of the policy's that begins with "│", or with backslashes and "│", gets a backslash in front. Line breaks
    around an observation are left out; else `split_transcript` gives all words back. A line ends where
    `str.splitlines` says.
    """
    parts = []
    for turn in turns:
        parts.append("".join(rf"\{line}" if _MARKED.match(line) else line for line in _lines(turn.text)))
        if turn.observation is not None:
            lines = _lines(turn.observation.written.strip(_BREAKS)) or [""]
            parts.append("".join(_MARK + line for line in lines))
    return "\n".join(parts)


def split_transcript(text: str) -> list[tuple[str, bool]]:
    """A `transcript` → `(words, whether they are an observation)`, in order, as they were before it marked them."""
    pieces = []
    for observed, lines in itertools.groupby(_lines(text), lambda line: line.startswith(_MARK)):
        bare = (line[len(_MARK) :] if observed else _without_escape(line) for line in lines)
        pieces.append(("".join(bare), observed))
    ended = [(piece.removesuffix("\n"), observed) for piece, observed in pieces[:-1]]
    return ended + pieces[-1:]


def shown(record: Mapping) -> str:
    """The transcript of a row of a table; its text if it has none, as if its task gives no answers."""
    text = record.get("transcript")
    return text if isinstance(text, str) else record["text"]


def _without_escape(line: str) -> str:
    return line[1:] if line.startswith("\\") and _MARKED.match(line) else line


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)
