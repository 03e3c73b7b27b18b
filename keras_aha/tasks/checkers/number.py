"""`Number`: an answer is the expected number, compared exactly."""

import functools
import re
from fractions import Fraction

from keras_aha.tasks.checkers.checker import Checker
from keras_aha.tasks.checkers.markup import unwrapped
from keras_aha.tasks.checkers.units import unit_name

_QUANTITY = re.compile(
    r"([+-]?)(?:((?:US)?\$|[€£¥₹]) ?)?([+-]?)"
    r"(?:(?:([0-9]+) )?([0-9]+/0*[1-9][0-9]*)"
    r"|(?=\.?[0-9])([0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(\.[0-9]+)?(?:[eE]([+-]?[0-9]{1,3}))?)(?![0-9])[ ~]?(.*)"
)
_TIMES_TEN = re.compile(
    r"(?<=[0-9]) ?(?:\*|\u00d7|\u00b7|\\times|\\cdot) ?10\^(?:\{([+-]?[0-9]{1,3})\}|([+-]?[0-9]{1,3}))"
)
_FRACTION = re.compile(r"\\[dt]?frac ?(?:\{([^{}]*)\}|([0-9])) ?(?:\{([^{}]*)\}|([0-9]))")
_TEX = {r"\%": "%", r"\$": "$", "{,}": ",", r"\,": " ", r"\;": " ", r"\ ": " ", r"\!": "", "\u2212": "-"}
_TEX |= {r"^{\circ}": "°", r"^\circ": "°", r"\degree": "°", "²": "^2", "³": "^3", "^{2}": "^2", "^{3}": "^3"}


class Number(Checker):
    """An answer is right if it states the expected number, and no other words than a unit.

    Numbers are exact: `1,234.50`, `2469/2`, `1234 1/2` and `1.2345e3` are the same. Marks of Markdown and TeX may stand
    around. A unit, a currency or a percent sign may stand beside a number: one of `units`, or the word that the
    expected number has. It must be the same if both have one. Nothing is converted, so 50% is 50.

    Args:
        tolerance: the relative error that is forgiven, such as 0.01.
    """

    max_length = 100
    expects = "a number, alone or with its unit"

    def __init__(self, tolerance: float = 0.0):
        if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < 1:
            raise ValueError(f"`tolerance` must be at least 0 and below 1. Received: tolerance={tolerance!r}")
        self.tolerance = Fraction(str(tolerance))

    def compare(self, answer: str, expected: str) -> str:
        value, unit = _read(answer)
        expected_value, expected_unit = _read(expected)
        if value is None or expected_value is None or (unit.startswith("?") and unit != expected_unit):
            return "not_a_number"
        is_near = abs(value - expected_value) <= self.tolerance * abs(expected_value)
        return "correct" if is_near and (unit == expected_unit or not (unit and expected_unit)) else "wrong_value"

    def canonical(self, answer: str) -> str | None:
        """Returns the number in lowest terms, without its unit; a word that is no unit stays."""
        value, unit = _read(answer) if len(answer) <= self.max_length else (None, "")
        return None if value is None else f"{value} {unit}" if unit.startswith("?") else str(value)


@functools.lru_cache(1024)
def _read(text: str) -> tuple[Fraction | None, str]:
    """The number of a text and its unit, `?WORD` for a word that is none; `None` if it is anything else."""
    found = _QUANTITY.fullmatch(_plain(text))
    if not found:
        return None, ""
    sign, currency, inner_sign, whole, fraction, digits, decimals, power, rest = found.groups("")
    if sign and inner_sign:
        return None, ""
    value = Fraction(fraction or digits.replace(",", "") + decimals) * Fraction(10) ** int(power or 0)
    if whole and value >= 1:  # 2 3/2 is no mixed number
        return None, ""
    unit = unit_name(f"{currency} {rest}" if currency and rest.startswith("per ") else currency + rest)
    if unit is None and rest.isalpha() and not currency:
        unit = f"?{rest.casefold().removesuffix('s')}"
    value = (value + int(whole or 0)) * (-1 if "-" in sign + inner_sign else 1)
    return (None, "") if unit is None else (value, unit)


def _plain(text: str) -> str:
    """A quantity without the ways of TeX: `2 1/2 cm^2` of `$2\\frac12$ \\text{cm}^2`."""
    text = re.sub(r"(?<!\\)\$([^$]*[^$\\])\$", r" \1 ", unwrapped(text))  # blanks, so that two numbers stay two
    text = re.sub(r"\\(?:text|mathrm|mbox) ?\{([^{}]*)\}", r"\1", text)
    for tex, plain in _TEX.items():
        text = text.replace(tex, plain)
    text = _FRACTION.sub(r"\1\2/\3\4", re.sub(r"(?<=[0-9])(?=\\[dt]?frac)", " ", text))
    return _TIMES_TEN.sub(r"e\1\2", re.sub(" ?/ ?", "/", " ".join(text.split())))
