"""Names that users type: the name in a handle, and the nearest of those that are known."""

import difflib
from collections.abc import Iterable


def bare_name(preset: str) -> str:
    """The name in a handle, `gemma2_2b_en` of `kaggle://keras/gemma2/keras/gemma2_2b_en/2`; other names as they are."""
    if "://" not in preset:
        return preset
    words = [word for word in preset.split("/") if word and not word.isdigit()]  # a handle may end in a version
    return words[-1]


def nearest(word: str, known: Iterable[str]) -> str:
    """The one of `known` that looks most like `word`."""
    return max(known, key=lambda other: difflib.SequenceMatcher(None, word, other).ratio(), default="")
