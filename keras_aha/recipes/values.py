"""Values of a recipe's keys: what TOML, or a command line, gives → what a key of some type holds."""

import math
import types
import typing

_LARGEST = 3.4e38  # of float32
_DEEPEST = 50  # tables and lists in each other


class RecipeError(ValueError):
    """A recipe, or a change to one, cannot be used; its message is one sentence for the user."""


def convert(value, hint):
    """`value` as a key of type `hint` holds it; raises TypeError, or OverflowError where arrays would hold another."""
    if isinstance(hint, types.UnionType):
        for option in sorted(hint.__args__, key=lambda option: option is not types.NoneType):  # "none" is no string
            try:
                return convert(value, option)
            except TypeError:
                continue
    elif hint is types.NoneType and (value is None or value == "none"):
        return None
    elif hint is float and type(value) in (int, float) and math.isfinite(value):
        return _in_32_bits(float(value), _LARGEST)
    elif typing.get_origin(hint) is tuple and isinstance(value, list | tuple):
        kinds = typing.get_args(hint)
        kinds = kinds[:1] * len(value) if kinds[-1] is ... else kinds
        if len(kinds) == len(value):
            return tuple(convert(item, kind) for item, kind in zip(value, kinds, strict=True))
    elif hint is int and type(value) is int:  # True is no number
        return _in_32_bits(value, 2**31 - 1)
    elif (hint is bool and type(value) is bool) or (hint is str and _is_text(value)):
        return value
    raise TypeError


def _in_32_bits(number, largest):
    if abs(number) > largest or 0 < abs(number) < 1 / largest:
        raise OverflowError
    return number


def free_value(path: str, value, depth: int = 0):
    """A copy of what stands in a free table, lists as tuples; RecipeError where TOML, or Python, could not hold it."""
    if depth > _DEEPEST:
        raise RecipeError(f"{path[:_DEEPEST]} holds more than {_DEEPEST} tables or lists in each other.")
    if isinstance(value, dict) and all(map(_is_text, value)):
        return {key: free_value(f"{path}.{key}", item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(free_value(path, item, depth + 1) for item in value)
    if type(value) in (bool, int) or _is_text(value) or (type(value) is float and math.isfinite(value)):
        return value
    raise RecipeError(
        f"{path} must be a string, a finite number, a boolean, a list or a table. Received: {path}={value!r}"
    )


def _is_text(value) -> bool:
    # A command line that is no Unicode arrives with surrogates, which no TOML file can hold.
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def in_words(hint) -> str:
    """What `convert` takes for `hint`, as an error says it."""
    words = {int: "an integer", float: "a number", bool: "true or false", str: "a string", dict: "a table"}
    words |= {tuple[float, float]: "a pair of numbers", tuple[str, ...]: "a list of strings", types.NoneType: '"none"'}
    return " or ".join(words[option] for option in (hint.__args__ if isinstance(hint, types.UnionType) else (hint,)))
