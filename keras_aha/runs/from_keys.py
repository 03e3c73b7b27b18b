"""Makes what a section's free keys describe: a task, a judge."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from keras_aha.names import suggestion
from keras_aha.recipes.values import RecipeError, in_section
from keras_aha.training.ask import shown


def make_from_keys(make: Callable, section, path: str, name: str, **defaults) -> Any:
    """`make(…)` of the `arguments` of the section at a `path`, and of those `defaults` that it takes and they lack;
    errors call it by its `name`. "none" is None if that is an argument's default.

    It raises RecipeError for an unknown key, which names the nearest, and for whatever `make` raises.
    """
    known = known_arguments(make)
    for key, value in section.arguments.items():
        if key not in known:
            near = suggestion(key, [*known, *vars(section)], path + ".{}")
            raise RecipeError(f"Unknown key {path}.{key}{near}. Received: {path}.{key}={value!r}")
    absent = {key for key, value in section.arguments.items() if value == "none" and known[key].default is None}
    arguments = {key: None if key in absent else value for key, value in section.arguments.items()}
    with in_section(path):
        try:
            return make(**{key: value for key, value in defaults.items() if key in known} | arguments)
        except ValueError:
            raise
        except Exception as error:  # whatever a user's class may raise
            reason = error if isinstance(error, TypeError) else shown(error)
            sentence = f"{name} cannot be made of the section's keys: {reason}. Received: {section.arguments}"
            raise ValueError(sentence) from error


def known_arguments(make: Callable) -> dict[str, inspect.Parameter]:
    """The arguments that are left of a class or another maker. If a class hands others on to its base, by `**settings`,
    those that the base takes by their keywords alone are among them."""
    own = inspect.signature(make).parameters
    known = {name: argument for name, argument in own.items() if argument.kind is not argument.VAR_KEYWORD}
    kind = make.func if isinstance(make, functools.partial) else make
    if len(known) < len(own) and inspect.isclass(kind):
        base = inspect.signature(kind.__base__).parameters
        known = {name: argument for name, argument in base.items() if argument.kind is argument.KEYWORD_ONLY} | known
    return known
