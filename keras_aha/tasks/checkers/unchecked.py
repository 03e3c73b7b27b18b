"""`Unchecked`: no checker, for answers that no program can tell right from wrong."""

from keras_aha.tasks.checkers.checker import Checker

UNCHECKED = "unchecked"  # the verdict


class Unchecked(Checker):
    """Says nothing of an answer: rows need none, and only other rewards count, such as a judge's."""

    def compare(self, answer: str, expected: str) -> str:
        return UNCHECKED

    def check_expected(self, expected: str) -> None:
        pass
