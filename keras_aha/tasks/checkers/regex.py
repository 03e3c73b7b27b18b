"""`Regex`: the whole answer matches the regular expression that is expected."""

import re

from keras_aha.tasks.checkers.checker import Checker
from keras_aha.tasks.checkers.child import Child, check_seconds

_CHILD = Child("regex")


class Regex(Checker):
    """An answer is right if all of it matches the expected answer, a regular expression (`re.fullmatch`).

    Blanks around do not count. A `Child` compares, because an expression such as `(a+)+b` may take for ever.

    Args:
        seconds: that an answer may take, else it is `too_slow`; less than `reward_seconds`.
    """

    expects = "a regular expression of Python"

    def __init__(self, seconds: float = 1.0):
        self.seconds = check_seconds(seconds)
        _CHILD.start()

    def compare(self, answer: str, expected: str) -> str:
        return _CHILD.ask({"answer": answer.strip(), "pattern": expected.strip()}, self.seconds)

    def check_expected(self, expected: str) -> None:
        try:
            if expected.strip() and len(expected) <= self.max_length:
                return re.compile(expected) and None
            reason = f"it must have 1 to {self.max_length:,} characters"
        except (re.error, OverflowError, RecursionError) as error:
            reason = str(error)
        raise ValueError(f"`answer` must be {self.expects}: {reason}. Received: answer={expected[:200]!r}")
