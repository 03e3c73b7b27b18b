"""`Recipe`: a TOML file read into frozen dataclasses, whose sections are the keyword arguments of what they build.

`sections.py` declares the keys. A recipe that loads holds no unknown key and no value that fails only later.
"""

import dataclasses
import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keras_aha.files import local_path, presets_folder, read_text, write_whole
from keras_aha.names import bare_name, suggestion
from keras_aha.recipes import sections
from keras_aha.recipes.reading import read_sections
from keras_aha.recipes.values import RecipeError, assignment, flat

import tomli_w

RECIPE = "recipe.toml"  # the file in a run's folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a run, one attribute a section: `recipe.rollouts.group_size`.

    `dataclasses.asdict(recipe.loss)` are the keyword arguments of what the section builds; `recipe.task` holds the
    task's `name` and its `arguments`. Recipes come from `load` and `from_dict`; `override` makes a new one.
    """

    model: sections.Model
    lora: sections.Lora
    task: sections.TaskSection
    rollouts: sections.Rollouts
    loss: sections.Loss
    optimizer: sections.Optimizer
    training: sections.Training
    evaluation: sections.Evaluation
    distribution: sections.Distribution
    priming: sections.Priming

    @classmethod
    def load(cls, name_or_path: str | os.PathLike) -> "Recipe":
        """Reads the recipe `presets/NAME.toml`, or the file at a path that ends in `.toml`.

        A keras-hub handle such as `kaggle://keras/gemma2/keras/gemma2_2b_en` takes the recipe of its last name, and
        becomes the model's preset.

        Raises:
            RecipeError: no such recipe, a file that cannot be read or is not TOML, or what `from_dict` raises.
            ValueError: a path that is none of this machine.
        """
        name = os.fspath(name_or_path)
        path = local_path(name, "recipe") if name.endswith(".toml") else _find_shipped(name)
        try:
            recipe = cls.from_dict(tomllib.loads(read_text(path)))
        except OSError as error:
            raise RecipeError(f"The recipe {path} cannot be read: {error.strerror}.") from error
        except RecipeError as error:
            raise RecipeError(f"In the recipe {path}: {error}") from error
        except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, or nested without end
            raise RecipeError(f"The recipe {path} is not valid TOML: {error}.") from error
        return recipe.override(assignment("model.preset", name)) if "://" in name else recipe

    @classmethod
    def from_dict(cls, sections: dict) -> "Recipe":
        """Builds a recipe from a dict of sections, as `tomllib` reads it; what is left out has its default.

        Raises:
            RecipeError: an unknown section or key (the message names the nearest), a required key that is missing
                (`model.preset`, `task.name`), or a value of the wrong type or out of bounds.
        """
        return cls(**read_sections(sections))

    def to_dict(self) -> dict:
        """The inverse of `from_dict`, every default written out."""
        sections = dataclasses.asdict(self)
        sections["task"] |= sections["task"].pop("arguments")
        return sections

    def flat(self) -> dict[str, Any]:
        """Dotted path → value, of all that `to_dict` returns."""
        return flat(self.to_dict())

    def override(self, assignments: str | Iterable[str]) -> "Recipe":
        """A new recipe with values replaced.

        Args:
            assignments: `section.key=value`, one or several, the value in TOML; bare words need no quotes. Free tables
                nest: `optimizer.config.learning_rate=1e-3`. Another `task.name` removes the former task's arguments
                and habits.

        Raises:
            RecipeError: an assignment of another form, or what `from_dict` raises.
        """
        sections = self.to_dict()
        assignments = [assignments] if isinstance(assignments, str) else list(assignments)
        # A task's name first: arguments that stand before it are the new task's, too.
        for change in sorted(assignments, key=lambda text: text.partition("=")[0].strip() != "task.name"):
            path, equals, text = change.partition("=")
            *parents, key = (part.strip() for part in path.split("."))
            if not (equals and parents and key and all(parents)):
                raise RecipeError(f"A change to a recipe is written section.key=value. Received: {change!r}")
            table = sections
            for parent in parents:
                table = table.setdefault(parent, {})
                if not isinstance(table, dict):
                    raise RecipeError(f"{parent} is a value and holds no keys. Received: {change!r}")
            value = _parse(text.strip(), change)
            if path.strip() == "task.name" and value != table.get(key):
                sections["task"] = table = {}
                sections["priming"]["habits"] = {}
            table[key] = value
        return Recipe.from_dict(sections)

    def dump(self, path: str | os.PathLike) -> None:
        """Writes the recipe, every default written out, as a TOML file that loads back equal."""
        sections = {
            name: {key: "none" if value is None else value for key, value in section.items()}  # TOML has no null
            for name, section in self.to_dict().items()
        }
        write_whole(path, tomli_w.dumps(sections))


def _find_shipped(name: str) -> Path:
    known = {path.stem: path for path in sorted(presets_folder().glob("*.toml"))}
    stem = bare_name(name)
    if stem not in known:
        raise RecipeError(
            f"No recipe is called {stem!r}{suggestion(stem, known, '{!r}')}. There are {', '.join(known)}; a recipe of "
            f"your own is named by a path that ends in .toml. Received: {name!r}"
        )
    return known[stem]


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
