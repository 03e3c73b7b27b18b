"""`MathAnswer`: an answer in LaTeX has the same value as the expected one, by math-verify."""

import importlib.util
import re

from keras_aha.tasks.checkers.checker import Checker
from keras_aha.tasks.checkers.child import Child, check_seconds

_CHILD = Child("math")
_DELIMITERS = re.compile(r"(?<!\\)(?:\$|\\[()\[\]])")


class MathAnswer(Checker):
    """An answer is right if math-verify finds it equal to the expected one, https://github.com/huggingface/Math-Verify.

    Numbers, fractions, roots, intervals, sets, tuples, matrices, equations and inequalities are compared by value,
    decimals to six places. The whole answer is one formula; marks of TeX and Markdown may stand around. It is read and
    computed in a `Child`, by the grammar of LaTeX alone: nothing in it is run as code.

    Args:
        seconds: that an answer may take, else it is `too_slow`; less than `reward_seconds`.
    """

    expects = "a formula of LaTeX"

    def __init__(self, seconds: float = 2.0):
        self.seconds = check_seconds(seconds)
        if not importlib.util.find_spec("math_verify"):
            raise ValueError("math-verify is not installed: pip install \"keras-aha[math]\". Received: checker='math'")
        _CHILD.start()

    def compare(self, answer: str, expected: str) -> str:
        return _CHILD.ask({"answer": _formula(answer), "expected": _formula(expected)}, self.seconds)

    def check_expected(self, expected: str) -> None:
        """Raises ValueError for what is blank, too long, or has a brace too many; whether it is math is seen later."""
        if not expected.strip() or len(expected) > self.max_length or expected.count("{") != expected.count("}"):
            raise ValueError(f"`answer` must be {self.expects}. Received: answer={expected[:200]!r}")


def _formula(text: str) -> str:
    text = _DELIMITERS.sub(" ", text.strip(" \n*`").removesuffix("."))
    return re.sub(r"(?<!\\)%", r"\\%", " ".join(text.split()))
