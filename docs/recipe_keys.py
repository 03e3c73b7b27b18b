"""Tables of a recipe's keys, made from the declarations and the docstrings of the code."""

import dataclasses
import importlib
import inspect
import re
from dataclasses import MISSING

from keras_aha.recipes.sections import LISTS, SECTIONS
from keras_aha.recipes.values import in_words

# Where the keys of a section are described, beside its own docstring. The first description counts.
SOURCES = {
    "rollouts": (
        "callbacks.rollout_callback.RolloutCallback",
        "training.policy_sampler.PolicySampler.generate",
        "decoding.Sampling",
    ),
    "loss": ("losses.GRPOLoss",),
    "teacher": ("training.teacher.Teacher",),
    "turns": ("training.turn_limits.TurnLimits",),
    "training": ("training.grpo_model.GRPOModel",),
    "distribution": ("distribution.distribute.distribute",),
    "priming": ("training.priming.prime", "tasks.example_rows.ExampleRows"),
}
_BLOCK = re.compile(r"^(?:Args|Attributes):\n((?:(?: {4}.*)?\n)+)", re.MULTILINE)
_ENTRY = re.compile(r"^ {4}([\w, ]+): ?(.*(?:\n {8}.*|\n(?=\n {8}))*)", re.MULTILINE)


def table(what: str) -> str:
    """A table in Markdown.

    Args:
        what: the name of a section, or the path of a class whose arguments are keys, such as `tasks.Countdown`.

    Raises:
        LookupError: if a key is documented nowhere.
    """
    rows = _rows_of_section(what) if what in SECTIONS | LISTS else _rows_of_arguments(find(what))
    lines = [" | ".join(("", *(cell.replace("|", r"\|") for cell in row), "")).strip() for row in rows]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *lines]) + "\n"


def find(path: str):
    """The object at `path`, which begins with a module of `keras_aha`."""
    head, *rest = path.split(".")
    value = importlib.import_module(f"keras_aha.{head}")
    for name in rest:
        value = getattr(value, name) if hasattr(value, name) else importlib.import_module(f"{value.__name__}.{name}")
    return value


def documented(what) -> dict[str, str]:
    """Name → text, in one line, of all `Args` and `Attributes` in a docstring of Google's style."""
    text = inspect.getdoc(what) + "\n"
    entries = [entry for block in _BLOCK.findall(text) for entry in _ENTRY.findall(block)]
    return {name.strip(): " ".join(words.split()) for names, words in entries for name in names.split(",")}


def _rows_of_section(name: str):
    kind = (SECTIONS | LISTS)[name]
    texts = [*map(documented, kind.__mro__[:-1]), *(documented(find(path)) for path in SOURCES.get(name, ()))]
    for key in dataclasses.fields(kind):
        if key.name == "arguments":  # every other key
            continue
        meanings = [text[key.name] for text in texts if key.name in text]
        if not meanings:
            raise LookupError(f"The key {name}.{key.name} is documented nowhere.")
        meaning = min(meanings, key=lambda text: text.startswith("see "))  # one that does not send the reader on
        meaning = _sentence(meaning).replace("`None`", _as_toml(None))
        yield f"`{key.name}`", _default(key), f"{meaning} *{_sentence(_takes(key))}.*"


def _rows_of_arguments(kind):
    texts = documented(kind)
    for name, parameter in inspect.signature(kind).parameters.items():
        if name not in texts:
            raise LookupError(f"The argument {name} of {kind.__name__} is documented nowhere.")
        default = "" if parameter.default is parameter.empty else _as_toml(parameter.default)
        yield f"`{name}`", default, _sentence(texts[name])


def _takes(key: dataclasses.Field) -> str:
    """Its type, with the bounds that it must keep."""
    bounds = key.metadata.get("words", "")
    if bounds.startswith(('"', "texts")):  # a choice says it all
        return bounds
    return ", ".join(filter(None, [in_words(key.type), bounds]))


def _default(key: dataclasses.Field) -> str:
    if key.default is not MISSING:
        return _as_toml(key.default)
    return "none: it is needed" if key.default_factory is MISSING else "empty"


def _as_toml(value) -> str:
    return f"`{_plain(value)}`"


def _plain(value) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_plain, value))}]"
    if value is None or isinstance(value, str):
        return '"none"' if value is None else f'"{value}"'
    return str(value).lower() if isinstance(value, bool) else str(value)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
