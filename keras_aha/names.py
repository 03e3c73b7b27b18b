"""Words to and from users: the name in a handle, the nearest known name, and text that is safe to show."""

import difflib
from collections.abc import Iterable


def bare_name(preset: str) -> str:
    """The name in a handle, `gemma2_2b_en` of `kaggle://keras/gemma2/keras/gemma2_2b_en/2`; other names as they are."""
    if "://" not in preset:
        return preset
    words = [word for word in preset.split("/") if word and not word.isdigit()]  # a handle may end in a version
    return words[-1]


def suggestion(word: str, known: Iterable[str], form: str = "{}") -> str:
    """What an error adds about an unknown name: `; the nearest is NAME`, or nothing if none of `known` is near.

    Names that begin with `word` are nearest, the shortest of them first. `form` is how one is written: `"rollouts.{}"`.
    """
    known = list(known)
    longer = sorted((name for name in known if word and name.startswith(word)), key=len)
    for name in longer or difflib.get_close_matches(word, known, n=1, cutoff=0.5):
        return f"; the nearest is {form.format(name)}"
    return ""


def unicode(text: str) -> str:
    """`text`, lone surrogates as their numbers: UTF-8 has none, nor have pandas, Parquet and TensorBoard."""
    return text.encode(errors="backslashreplace").decode()


def printable(text: str, keep: str = "\n") -> str:
    """`text`, with question marks for what a terminal or a browser would obey; characters of `keep` stay."""
    return "".join(character if character.isprintable() or character in keep else "\ufffd" for character in text)
