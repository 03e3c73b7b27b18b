"""`make_checker`: the checker that a recipe names."""

import inspect
from collections.abc import Mapping
from typing import Any

from keras_aha.names import import_name, suggestion
from keras_aha.tasks.checkers.checker import Checker
from keras_aha.tasks.checkers.choice import Choice
from keras_aha.tasks.checkers.contains import Contains
from keras_aha.tasks.checkers.exact import Exact
from keras_aha.tasks.checkers.function import Function
from keras_aha.tasks.checkers.json_answer import JsonAnswer
from keras_aha.tasks.checkers.math_answer import MathAnswer
from keras_aha.tasks.checkers.number import Number
from keras_aha.tasks.checkers.regex import Regex
from keras_aha.tasks.checkers.unchecked import Unchecked

CHECKERS: dict[str, type[Checker]] = dict(exact=Exact, number=Number, choice=Choice, math=MathAnswer)
CHECKERS |= dict(contains=Contains, regex=Regex, json=JsonAnswer, none=Unchecked)


def make_checker(name: str, options: Mapping[str, Any]) -> Checker:
    """Returns a checker with its options, such as `make_checker("number", {"tolerance": 0.01})`.

    `module:function` names a function of the user's: see `Function`.

    Raises:
        ValueError: if there is no such checker or option, or an option is out of range.
    """
    if ":" in name:
        if options:
            raise ValueError(f"A function of your own takes no options. Received: checker={name!r}, {dict(options)}")
        return Function(import_name(name, "checker"), name)
    if name not in CHECKERS:
        raise ValueError(
            f"`checker` must be one of {', '.join(CHECKERS)}, or MODULE:FUNCTION{suggestion(name, CHECKERS)}. "
            f"Received: checker={name!r}"
        )
    known = inspect.signature(CHECKERS[name]).parameters
    for key, value in options.items():
        if key not in known:
            near = suggestion(key, known) or (f"; it takes {', '.join(known)}" if known else "; it takes none")
            raise ValueError(f"The checker {name} has no option {key!r}{near}. Received: {key}={value!r}")
    return CHECKERS[name](**options)
