"""Words to and from users: the name of a preset, the nearest known name, and text that is safe to show."""

import difflib
import importlib
import os
from collections.abc import Callable, Iterable
from typing import Any


def preset_name(preset: str | os.PathLike) -> str:
    """The name of a preset wherever it lies: `gemma2_2b_en` of itself, of the handle
    `kaggle://keras/gemma2/keras/gemma2_2b_en/2`, and of a folder that ends so, as attached or downloaded ones do."""
    preset = os.fspath(preset)
    if repository := cached_repository(preset):
        return repository.rpartition("/")[2]
    parts = (preset.partition("://")[2] if "://" in preset else os.path.abspath(preset)).split("/")
    return next((part for part in reversed(parts) if part and not part.isdecimal()), preset)


def cached_repository(preset: str) -> str | None:
    """`google/gemma-2-2b-it` of a folder `…/models--google--gemma-2-2b-it/snapshots/HASH` of Hugging Face's cache."""
    parts = [] if "://" in preset else [part.split("--") for part in preset.split("/")]
    return next(("/".join(part[1:]) for part in parts if part[0] == "models" and len(part) == 3), None)


def suggestion(word: str, known: Iterable[str], form: str = "{}") -> str:
    """What an error adds about an unknown name: `; the nearest is NAME`, or nothing if none of `known` is near.

    Names that begin with `word` are nearest, the shortest of them first. `form` is how one is written: `"rollouts.{}"`.
    """
    known = list(known)
    longer = sorted((name for name in known if word and name.startswith(word)), key=len)
    for name in longer or difflib.get_close_matches(word, known, n=1, cutoff=0.5):
        return f"; the nearest is {form.format(name)}"
    return ""


def import_name(name: str, key: str, kind: str = "function", is_kind: Callable[[Any], bool] = callable) -> Any:
    """What `module:function` names, imported as Python does, or something else of a `kind`; `key` names it, for errors.

    It raises ValueError if the module cannot be imported, or has nothing of that name and kind.
    """
    module, _, wanted = name.partition(":")
    try:
        names = vars(importlib.import_module(module))
    except Exception as error:  # whatever the module does
        raise ValueError(
            f"The module of {key} cannot be imported: {type(error).__name__}: {error}. Is its folder the current one, "
            f"or in PYTHONPATH? Received: {key}={name!r}"
        ) from error
    known = {word: value for word, value in names.items() if is_kind(value)}
    if wanted not in known:
        near = suggestion(wanted, known, module + ":{}")
        raise ValueError(f"The module {module} has no {kind} {wanted!r}{near}. Received: {key}={name!r}")
    return known[wanted]


def unicode(text: str) -> str:
    """`text`, lone surrogates as their numbers: UTF-8 has none, nor have pandas, Parquet and TensorBoard."""
    return text.encode(errors="backslashreplace").decode()


def printable(text: str, keep: str = "\n") -> str:
    """`text`, with question marks for what a terminal or a browser would obey; characters of `keep` stay."""
    return "".join(character if character.isprintable() or character in keep else "\ufffd" for character in text)
