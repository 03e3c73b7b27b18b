"""Values of a recipe's keys: from what TOML or a command line gives to what a key of some type holds."""

import contextlib
import math
import types
import typing

import tomli_w

_LARGEST = 3.4e38  # of float32
_DEEPEST = 50  # tables and lists in each other


class RecipeError(ValueError):
    """A recipe, or a change to one, cannot be used; its message is one sentence for the user."""


@contextlib.contextmanager
def in_section(name: str):
    """Makes a ValueError of what is built from a section a RecipeError that names the section."""
    try:
        yield
    except RecipeError:
        raise
    except ValueError as error:
        raise RecipeError(f"[{name}]: {error}") from error


def convert(value, kind):
    """`value` as a key of type `kind` holds it: `"none"` as None, lists as tuples, integers as floats.

    Raises:
        TypeError: if it is of another type, or not finite.
        OverflowError: if it is a number that 32 bits cannot hold.
    """
    if isinstance(kind, types.UnionType):
        for option in sorted(kind.__args__, key=lambda kind: kind is not types.NoneType):  # None: "none" is no string
            with contextlib.suppress(TypeError):
                return convert(value, option)
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        kinds = typing.get_args(kind)
        kinds = kinds[:1] * len(value) if kinds[-1] is ... else kinds
        if len(kinds) == len(value):
            return tuple(map(convert, value, kinds))
    if kind is types.NoneType and (value is None or value == "none"):
        return None
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return _in_32_bits(float(value), _LARGEST)
    if kind is int and type(value) is int:  # True is no number
        return _in_32_bits(value, 2**31 - 1)
    if (kind is bool and type(value) is bool) or (kind is str and _is_text(value)):
        return value
    raise TypeError


def _in_32_bits(number, largest):
    if abs(number) > largest or 0 < abs(number) < 1 / largest:
        raise OverflowError
    return number


def free_value(path: str, value, depth: int = 0):
    """A copy of what stands in a free table, lists as tuples; RecipeError if TOML or Python cannot hold it."""
    if depth > _DEEPEST:
        raise RecipeError(f"{path[:_DEEPEST]} holds more than {_DEEPEST} tables or lists in each other.")
    if isinstance(value, dict) and all(map(_is_text, value)):
        return {key: free_value(f"{path}.{key}", item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(free_value(path, item, depth + 1) for item in value)
    if type(value) in (bool, int) or _is_text(value) or (type(value) is float and math.isfinite(value)):
        return value
    what = "a string, a finite number, a boolean, a list or a table"
    raise RecipeError(f"{path} must be {what}. Received: {path}={value!r}")


def flat(table: dict, prefix: str = "") -> dict:
    """Dotted path → value, of all that stands in `table` and in the tables inside it, those in lists as `tasks[0]`."""
    values = {}
    for key, value in table.items():
        if isinstance(value, list | tuple) and value and all(isinstance(item, dict) for item in value):
            values |= flat({f"{key}[{i}]": item for i, item in enumerate(value)}, prefix)
        else:
            values |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return values


def _is_text(value) -> bool:
    # A command line that is no Unicode arrives with surrogates, which no TOML file can hold.
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def assignment(path: str, value) -> str:
    """`path=value` as `Recipe.override` takes it. (JSON's strings are not TOML's if an emoji stands in them.)"""
    return path + tomli_w.dumps({"": value}).removeprefix('""').rstrip("\n")


def in_words(kind) -> str:
    """What `convert` takes for `kind`, as an error says it."""
    words = {int: "an integer", float: "a number", bool: "true or false", str: "a string", dict: "a table"}
    words |= {tuple[float, float]: "a pair of numbers", tuple[str, ...]: "a list of strings", types.NoneType: '"none"'}
    options = kind.__args__ if isinstance(kind, types.UnionType) else (kind,)
    return " or ".join(words.get(option, "a list of tables") for option in options)
