"""Reads the sections of a recipe: checks every key, its type and its bounds, and names the nearest key in errors."""

import dataclasses

from keras_aha.names import suggestion
from keras_aha.recipes.sections import LISTS, SECTIONS, PrimingTask
from keras_aha.recipes.values import RecipeError, convert, flat, free_value, in_words


def read_sections(sections: dict) -> dict:
    """Name → section, as `sections.SECTIONS` declares them, of a dict of tables; RecipeError as `Recipe.from_dict`."""
    for name, table in sections.items():
        if name not in SECTIONS | LISTS:
            elsewhere = "" if isinstance(table, dict) else _same_key(name, sections)  # a key outside its section
            near = elsewhere or suggestion(name, SECTIONS | LISTS, "[{}]")
            raise RecipeError(f"Unknown section [{name}]{near}. Received: {name}={table!r}")
        if name in SECTIONS and not isinstance(table, dict):
            raise RecipeError(f"[{name}] must be a table of keys. Received: {name}={table!r}")
    lists = {name: _read_tables(name, kind, sections.get(name, ()), sections) for name, kind in LISTS.items()}
    if lists["tasks"] and "task" in sections:
        received = f"[task] with {sections['task']}, and {len(lists['tasks'])} [[tasks]]"
        raise RecipeError(f"A recipe has one [task], or several [[tasks]]: leave one of them out. Received: {received}")
    kinds = {name: kind for name, kind in SECTIONS.items() if name != "task" or not lists["tasks"]}
    read = {name: _read_section(name, kind, sections.get(name, {}), sections) for name, kind in kinds.items()}
    return {"task": None} | read | lists


def _read_tables(path: str, kind: type, tables, sections: dict) -> tuple:
    if not (isinstance(tables, list | tuple) and all(isinstance(table, dict) for table in tables)):
        raise RecipeError(f"{path} must be a list of tables, [[{path}]]. Received: {path}={tables!r}")
    return tuple(_read_section(f"{path}[{i}]", kind, table, sections) for i, table in enumerate(tables))


def _read_section(name: str, kind: type, table: dict, sections: dict):
    keys = {key.name: key for key in dataclasses.fields(kind)}
    if "arguments" in keys:
        arguments = {key: value for key, value in table.items() if key not in keys or key == "arguments"}
        table = {key: value for key, value in table.items() if key not in arguments} | {"arguments": arguments}
    for key, value in table.items():
        if key not in keys:
            path = f"{name}.{key}"
            near = _same_key(path, sections) or suggestion(key, keys, name + ".{}")
            raise RecipeError(f"Unknown key {path}{near}. Received: {path}={value!r}")
    for key, declared in keys.items():
        if key not in table and declared.default is declared.default_factory is dataclasses.MISSING:
            raise RecipeError(f"The recipe lacks {name}.{key}, which has no default.")
    return kind(**{key: _read_value(f"{name}.{key}", value, keys[key], sections) for key, value in table.items()})


def _read_value(path: str, value, declared: dataclasses.Field, sections: dict):
    if declared.type == tuple[PrimingTask, ...]:
        return _read_tables(path, PrimingTask, value, sections)
    if declared.type is dict and isinstance(value, dict):
        return free_value(path.removesuffix(".arguments"), value)
    try:
        result = convert(value, declared.type)
    except TypeError:
        raise RecipeError(f"{path} must be {in_words(declared.type)}. Received: {path}={value!r}") from None
    except OverflowError:
        raise RecipeError(f"{path} must be a number of 32 bits. Received: {path}={value!r}") from None
    if result is not None and "holds" in declared.metadata:
        if not all(map(declared.metadata["holds"], result if isinstance(result, tuple) else (result,))):
            raise RecipeError(f"{path} must be {declared.metadata['words']}. Received: {path}={value!r}")
    return result


def _same_key(path: str, sections: dict) -> str:
    """Says where else the last name of `path` is a key: in what `sections` holds, or in a declared section."""
    declared = [f"{name}.{key.name}" for name, kind in (SECTIONS | LISTS).items() for key in dataclasses.fields(kind)]
    name = path.split(".")[-1]
    others = (other for other in [*flat(sections), *declared] if other != path and other.endswith(f".{name}"))
    return next((f"; the nearest is {other}" for other in others), "")
