"""`Function`: a function of the user's own says whether an answer is right."""

from collections.abc import Callable

from keras_aha.tasks.checkers.checker import Checker


class Function(Checker):
    """An answer is right if a function says so; it runs under the time limit of rewards (see `Grader`).

    Args:
        function: `function(answer, expected)`, which returns True, False, or a verdict in one word. Only `"correct"` is
            right. What it raises is a failed reward.
        name: how errors call it.
    """

    max_length = 1_000_000

    def __init__(self, function: Callable[[str, str], bool | str], name: str):
        self.function = function
        self.name = name

    def compare(self, answer: str, expected: str) -> str:
        verdict = self.function(answer, expected)
        if isinstance(verdict, bool):
            return "correct" if verdict else "wrong_value"
        if not isinstance(verdict, str) or len(verdict.split()) != 1:
            must = "must return True, False, or a verdict in one word"
            raise TypeError(f"The checker {self.name} {must}. Received: {repr(verdict)[:200]}")
        return verdict

    def check_expected(self, expected: str) -> None:
        """Raises nothing: only the function knows what it expects."""
