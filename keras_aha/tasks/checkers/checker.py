"""`Checker`: compares the text of an answer with what is expected."""

from abc import ABC, abstractmethod


class Checker(ABC):
    """Says whether the text of an answer is right, in time that is bounded whatever is in it.

    Attributes:
        max_length: characters of the longest answer that is read.
        expects: what an expected answer must be, as an error says it.
    """

    max_length = 1000
    expects = "a text"

    @abstractmethod
    def compare(self, answer: str, expected: str) -> str:
        """Returns the verdict on `answer`, which is not blank and has at most `max_length` characters."""

    def verdict(self, answer: str, expected: str) -> str:
        """Returns `"correct"`, or in one word why `answer` is not: see `Score.verdict`."""
        if len(answer) > self.max_length:
            return "too_long"
        return self.compare(answer, expected) if answer.strip() else "no_answer"

    def check_expected(self, expected: str) -> None:
        """Raises ValueError if no answer could be compared with `expected`, such as a number that is none."""
        if self.verdict(expected, expected) != "correct":
            raise ValueError(
                f"`answer` must be {self.expects}, of at most {self.max_length:,} characters. "
                f"Received: answer={expected[:200]!r}"
            )

    def canonical(self, answer: str) -> str | None:
        """Returns a text that is equal if answers say the same, as a majority votes on it; `None` is no answer."""
        return " ".join(answer.split()) or None
