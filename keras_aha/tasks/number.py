"""An exact reader of one number, as an answer states it."""

import re
from fractions import Fraction

MAX_LENGTH = 40  # characters

_NUMBER = re.compile(r"[+-]?\$?(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)?(?:\.[0-9]+)?%?")
_FRACTION = re.compile(r"[+-]?[0-9]+/0*[1-9][0-9]*")


def read_number(text: str) -> Fraction | None:
    """Returns the number that `text` states; `None` if it states none, or anything else beside it.

    `-3`, `1,234.50`, `$72`, `50%` (read as 50), `.5` and `3/4` are numbers. U+2212 is a minus. Blanks may stand around,
    and one full stop behind.
    """
    text = text.strip().removesuffix(".").replace("\u2212", "-")
    if len(text) > MAX_LENGTH or not re.search("[0-9]", text):
        return None
    if _FRACTION.fullmatch(text):
        return Fraction(text)
    return Fraction(re.sub("[$,%]", "", text)) if _NUMBER.fullmatch(text) else None
