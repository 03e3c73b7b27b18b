"""`Recipe`: a TOML file read into frozen dataclasses, whose sections are the keyword arguments of what they build.

`sections.py` declares the keys. A recipe that loads holds no unknown key and no value that fails only later.
"""

import dataclasses
import difflib
import itertools
import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keras_aha.files import local_path, presets_folder, read_text, write_whole
from keras_aha.names import preset_name, suggestion
from keras_aha.recipes import sections
from keras_aha.recipes.reading import read_sections
from keras_aha.recipes.sections import LISTS
from keras_aha.recipes.values import RecipeError, assignment, flat

import tomli_w

RECIPE = "recipe.toml"  # the file in a run's folder
_REPLACES = ("task.name", "tasks")  # changes that make another task of it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a run, one attribute a section: `recipe.rollouts.group_size`.

    `dataclasses.asdict(recipe.loss)` are the keyword arguments of what the section builds; `recipe.task` holds the
    task's `name` and its `arguments`. With tables `[[tasks]]` it is `None`, and `recipe.tasks` has several such.
    Recipes come from `load` and `from_dict`; `override` makes a new one.
    """

    model: sections.Model
    lora: sections.Lora
    task: sections.TaskSection | None
    rollouts: sections.Rollouts
    loss: sections.Loss
    optimizer: sections.Optimizer
    training: sections.Training
    evaluation: sections.Evaluation
    distribution: sections.Distribution
    priming: sections.Priming
    teacher: sections.Teacher
    turns: sections.Turns
    tasks: tuple[sections.MixedTask, ...]
    rewards: tuple[sections.Reward, ...]
    tools: tuple[sections.Tool, ...]

    def __post_init__(self):
        _check_distinct("tasks", "label", [task.log_name for task in self.tasks])
        _check_distinct("rewards", "name", [reward.name for reward in self.rewards])
        _check_distinct("tools", "name", [tool.name for tool in self.tools])
        if self.tasks and self.priming.habits:
            raise RecipeError(
                "priming.habits are those of [task], which the recipe does not have: give each of the [[tasks]] habits "
                f"of its own. Received: priming.habits={self.priming.habits}"
            )

    @classmethod
    def load(cls, name_or_path: str | os.PathLike) -> "Recipe":
        """Reads the recipe `presets/NAME.toml`, or the file at a path that ends in `.toml`.

        A preset's handle, such as `kaggle://keras/gemma2/keras/gemma2_2b_en/2`, or folder takes the recipe of its name
        (see `recipe_of`), and becomes the model's preset.

        Raises:
            RecipeError: no such recipe, a file that cannot be read or is not TOML, or what `from_dict` raises.
            ValueError: a path that is none of this machine.
        """
        name = os.fspath(name_or_path)
        is_preset = not name.endswith(".toml") and ("://" in name or ("/" in name and Path(name).is_dir()))
        if name.endswith(".toml"):
            path = local_path(name, "recipe")
        else:
            path = _find_shipped(recipe_of(name) if is_preset else name)
        try:
            recipe = cls.from_dict(tomllib.loads(read_text(path)))
        except OSError as error:
            raise RecipeError(f"The recipe {path} cannot be read: {error.strerror}.") from error
        except RecipeError as error:
            raise RecipeError(f"In the recipe {path}: {error}") from error
        except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, or nested without end
            raise RecipeError(f"The recipe {path} is not valid TOML: {error}.") from error
        return recipe.override(assignment("model.preset", name)) if is_preset else recipe

    @classmethod
    def from_dict(cls, sections: dict) -> "Recipe":
        """Builds a recipe from a dict of sections, as `tomllib` reads it; what is left out has its default.

        Raises:
            RecipeError: an unknown section or key (the message names the nearest), a required key that is missing
                (`model.preset`, `task.name`), or a value of the wrong type or out of bounds.
        """
        return cls(**read_sections(sections))

    @property
    def asked(self) -> dict[str, sections.TaskSection]:
        """Key → section, of `[task]`, or of each table of `[[tasks]]`: `tasks[0]`, `tasks[1]`, …"""
        return {"task": self.task} if self.task else {f"tasks[{i}]": task for i, task in enumerate(self.tasks)}

    def to_dict(self) -> dict:
        """The inverse of `from_dict`, every default written out; of `task` and the lists of tables those there are."""
        sections = {name: section for name, section in dataclasses.asdict(self).items() if section not in (None, ())}
        one = [sections["task"]] if self.task else []
        lists = *(sections.get(name, ()) for name in LISTS), sections["priming"]["tasks"]
        for table in (*one, *itertools.chain.from_iterable(lists)):
            table |= table.pop("arguments")
        return sections

    def flat(self) -> dict[str, Any]:
        """Dotted path → value, of all that `to_dict` returns."""
        return flat(self.to_dict())

    def override(self, assignments: str | Iterable[str]) -> "Recipe":
        """A new recipe with values replaced.

        Args:
            assignments: `section.key=value`, one or several, the value in TOML; bare words need no quotes. Free tables
                nest: `optimizer.config.learning_rate=1e-3`. Tables in lists are counted from 0: `tasks[0].weight=2`.
                Another `task.name` removes the former task's arguments and habits, and the tables of `[[tasks]]` and
                `[[priming.tasks]]`; and so do `tasks=[{name="countdown"}, {name="signs"}]`, with `[task]`.

        Raises:
            RecipeError: an assignment of another form, or what `from_dict` raises.
        """
        sections = self.to_dict()
        assignments = [assignments] if isinstance(assignments, str) else list(assignments)
        # A task's name first: arguments that stand before it are the new task's, too.
        for change in sorted(assignments, key=lambda text: text.partition("=")[0].strip() not in _REPLACES):
            path, equals, text = change.partition("=")
            *parents, key = (part.strip() for part in path.split("."))
            if not (equals and key and all(parents) and (parents or key in LISTS)):
                raise RecipeError(f"A change to a recipe is written section.key=value. Received: {change!r}")
            value, path = _parse(text.strip(), change), ".".join((*parents, key))
            if path in _REPLACES and value != sections.get("task", {}).get(key):
                sections = {name: section for name, section in sections.items() if name not in ("task", "tasks")}
                sections["priming"] |= {"habits": {}, "tasks": ()}
            table = sections
            for parent in parents:
                table = _table_inside(table, parent)
                if table is None:
                    what = "a value, or no table that there is, and holds no keys"
                    raise RecipeError(f"{parent} is {what}. Received: {change!r}")
            table[key] = value
        return Recipe.from_dict(sections)

    def dump(self, path: str | os.PathLike) -> None:
        """Writes the recipe, every default written out, as a TOML file that loads back equal."""
        write_whole(path, self.to_toml())

    def to_toml(self) -> str:
        """What `dump` writes."""
        sections = self.to_dict()
        for section in sections.values():
            for table in [section] if isinstance(section, dict) else section:  # TOML has no null
                table |= {key: "none" for key, value in table.items() if value is None}
        return tomli_w.dumps(sections)


def recipe_of(preset: str | os.PathLike) -> str:
    """The recipe in `presets/` of a preset's name, wherever it lies; RecipeError, which names the nearest, if none is.

    A name of Hugging Face's has the recipe of the same model: `gemma2_instruct_2b_en` for `hf://google/gemma-2-2b-it`.
    """
    known, name = _shipped(), preset_name(preset)
    found = [stem for stem in known if stem == name] or [stem for stem in known if _words(stem) == _words(name)]
    if not found:
        nearest = ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0))
        raise RecipeError(
            f"No recipe belongs to a preset of the name {name!r}: name the one whose task and lengths to take, by "
            f"`recipe` (--recipe). The nearest are {nearest}. Received: {os.fspath(preset)!r}"
        )
    return found[0]


def _find_shipped(name: str) -> Path:
    known = _shipped()
    if name not in known:
        raise RecipeError(
            f"No recipe is called {name!r}{suggestion(name, known, '{!r}')}. There are {', '.join(known)}; a recipe of "
            f"your own is named by a path that ends in .toml. Received: {name!r}"
        )
    return known[name]


def _shipped() -> dict[str, Path]:
    return {path.stem: path for path in sorted(presets_folder().glob("*.toml"))}


def _words(name: str) -> list[str]:
    """What is the same in both names of a model, keras-hub's and Hugging Face's."""
    words = re.findall(r"code|\d[\d.]*[bm]?|[a-z]+", name.lower())
    return sorted({"it": "instruct"}.get(word, word) for word in words if word not in ("en", "text", "pt", "e"))


def _check_distinct(section: str, key: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(
                f"[[{section}]] must differ in their {key}, by which logs tell them apart. Received: {name!r} twice"
            )


def _table_inside(table: dict, name: str) -> dict | None:
    """The table of that name in another one, made if it is missing, or that of `tasks[0]`; None if it is no table."""
    name, _, index = name.partition("[")
    try:
        found = table[name][int(index.removesuffix("]"))] if index else table.setdefault(name, {})
    except (LookupError, TypeError, ValueError):
        found = None
    return found if isinstance(found, dict) else None


def _parse(text: str, assignment: str):
    """A TOML value, or a bare word as a string; what begins like another value but is broken is an error."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        parsed = {}
    if parsed.keys() == {"value"}:  # and no second key after a line break
        return parsed["value"]
    if not text or text[0] in "[{\"'" or re.fullmatch(r"[-+]?\.?\d[\d._]*([eE][-+]?\d*)?", text):
        raise RecipeError(f"What follows the = is no value of TOML. Received: {assignment!r}")
    return text
