"""`Contains`: the expected text stands somewhere in the answer."""

import re

from keras_aha.tasks.checkers.exact import Exact, one_line


class Contains(Exact):
    """An answer is right if the expected text stands in it, as whole words and whole numbers.

    It cannot tell what is said about the text: *not Paris* contains *Paris*, and so does a list of all cities. So an
    answer may have `max_length` characters only.

    Args:
        ignore_case: whether capital and small letters are the same.
        max_length: characters that an answer may have, at most 1,000.
    """

    def __init__(self, ignore_case: bool = False, max_length: int = 200):
        super().__init__(ignore_case)
        if isinstance(max_length, bool) or not isinstance(max_length, int) or not 1 <= max_length <= 1000:
            raise ValueError(f"`max_length` must be an integer from 1 to 1,000. Received: max_length={max_length!r}")
        self.max_length = max_length

    def compare(self, answer: str, expected: str) -> str:
        # 5 stands neither in 15 nor in 1.5, 5.1, 1,500, -5 or 5/3.
        before, after = r"(?<!\w)(?<![0-9][.,:/^])", r"(?!\w)(?![.,:/^][0-9])"
        sign = r"(?<![-\u2212.])" if expected.strip()[:1].isdecimal() else ""
        pattern = before + sign + re.escape(one_line(expected)) + after
        flags = re.IGNORECASE if self.ignore_case else 0
        return "correct" if re.search(pattern, one_line(answer), flags) else "wrong_value"
