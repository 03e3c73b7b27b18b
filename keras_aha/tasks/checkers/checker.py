"""`Checker`: compares the text of an answer with what is expected."""

from abc import ABC, abstractmethod


class Checker(ABC):
    """Says whether the text of an answer is right, in time that is bounded whatever is in it."""

    @abstractmethod
    def verdict(self, answer: str, expected: str) -> str:
        """Returns `"correct"`, or in one word why `answer` is not: see `Score.verdict`."""

    def check_expected(self, expected: str) -> None:  # noqa: B027  nothing to check by default
        """Raises ValueError if no answer could be compared with `expected`, such as a number that is none."""

    def canonical(self, answer: str) -> str | None:
        """Returns a text that is equal if answers say the same, as a majority votes on it; `None` is no answer."""
        return " ".join(answer.split()) or None
