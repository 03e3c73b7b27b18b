"""`Exact`: an answer is the expected text."""

from unicodedata import normalize

from keras_aha.tasks.checkers.checker import Checker


class Exact(Checker):
    """An answer is right if it is the expected text.

    Blanks and line ends of any number count as one blank, and one closing full stop is forgiven. Letters with accents
    are the same however Unicode composes them.

    Args:
        ignore_case: whether capital and small letters are the same.
    """

    def __init__(self, ignore_case: bool = False):
        if not isinstance(ignore_case, bool):
            raise ValueError(f"`ignore_case` must be true or false. Received: ignore_case={ignore_case!r}")
        self.ignore_case = ignore_case

    def compare(self, answer: str, expected: str) -> str:
        return "correct" if self.canonical(answer) == self.canonical(expected) else "wrong_value"

    def canonical(self, answer: str) -> str | None:
        text = one_line(answer)
        text = text.removesuffix(".").rstrip() or text
        return (text.casefold() if self.ignore_case else text) or None


def one_line(text: str) -> str:
    """`text` in Unicode's composed form, with single blanks."""
    return " ".join(normalize("NFC", text).split())
