"""`Row`: one row of a user's file, as a task asks it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """What is asked, and the answer that is expected.

    Attributes:
        prompt: the words of the user.
        answer: as the checker compares it.
        category: `None` if rows have none.
        difficulty: 0 if rows have none.
        solution: how the answer is worked out, or an empty text.
        messages: the conversation up to the answer, whose last message is the user's; `()` if there is none.
    """

    prompt: str
    answer: str
    category: str | None = None
    difficulty: float = 0
    solution: str = field(default="", repr=False)
    messages: tuple[Mapping[str, str], ...] = field(default=(), repr=False, hash=False)

    def __str__(self) -> str:
        return self.prompt

    @property
    def canonical(self) -> tuple[str, ...]:
        """What makes two rows the same puzzle: all that is said before the answer, with single blanks."""
        said = [message["content"] for message in self.messages] or [self.prompt]
        return "row", *(" ".join(text.split()) for text in said)
