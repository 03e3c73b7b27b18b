"""`Turn` and `Observation`: what a policy says, and what an environment or a tool answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Observation:
    """The answer to a turn of the policy.

    Attributes:
        text: what is answered. It may come from anywhere, so marks in it, such as `<end_of_turn>`, are read as letters.
        before, after: what stands around it, such as the marks with which the family writes a tool's answer. These are
            the task's own words, and marks in them are tokens.
        done: ends the completion; the policy does not read the text.
        tool: the name of the tool that was called, or an empty text if none was.
        is_error: whether the turn could not be answered as it was meant, as a call with wrong arguments cannot be.
    """

    text: str
    before: str = ""
    after: str = ""
    done: bool = False
    tool: str = ""
    is_error: bool = False

    @property
    def written(self) -> str:
        """All that the policy reads."""
        return self.before + self.text + self.after


class Turn(NamedTuple):
    """What the policy wrote until it stopped, without the stop token, and what it was answered, if it was."""

    text: str
    observation: Observation | None = None


def said(turns: Sequence[Turn]) -> str:
    """The policy's own words of all turns, a line break between them; nothing that it was answered."""
    return "\n".join(turn.text for turn in turns)
