"""`ModelCard`: what stands in the `README.md` of an exported folder."""

import dataclasses
import functools
import importlib.metadata
import json
import re
from pathlib import Path

from keras_aha.callbacks.run_folder import BEFORE, HISTORY, SUMMARY
from keras_aha.evaluation.table_file import read_tables
from keras_aha.files import presets_folder
from keras_aha.names import preset_name, printable
from keras_aha.recipes.recipe import RECIPE, Recipe
from keras_aha.runs.check_files import finished_epochs
from keras_aha.runs.conditions import conditions
from keras_aha.runs.experiment import summarize_held_out
from keras_aha.runs.report.run_record import read_history
from keras_aha.tasks import Task

import jinja2
import pandas as pd

# Gemma 4 came under the Apache License, as did the embedded model.
# Gemma's names are keras-hub's or Hugging Face's: gemma2_instruct_2b_en, gemma-2-2b-it.
_LICENSES = {r"(code_?)?gemma(-?(2|3|3n)|[-_]1\.1|)[-_](?!4-).*": "gemma", r"gemma-?4[-_].*": "apache-2.0"}
_MARKDOWN = re.compile(r"([!-/:-@\[-`{-~])")  # what CommonMark lets be escaped, §2.4


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """The facts about a run that its exported folders tell."""

    run: Path  # the run's folder
    recipe: Recipe  # the run's own
    epoch: int | None  # after which the policy is exported; `None` if that is not known
    task: Task  # what it was trained on
    end_tokens: dict[int, str]  # id → piece, of the tokens that end a completion
    class_names: dict[str, str]  # format → the class that loads it, in `peft` that of the base; where there is one
    hub_name: str | None  # the base's repository on Hugging Face; `None` if it is on no hub, or it is not known which
    chat_template: str | None  # what writes the prompts of the training, see `chat_template`

    @property
    def is_embedded(self) -> bool:
        """Whether the base is the model that comes with keras-aha."""
        preset = self.recipe.model.preset
        return Path(preset).name == preset and (presets_folder() / preset).is_dir()

    @property
    def license(self) -> str | None:
        """Hugging Face's word for the license of the base's weights; `None` if it is not known."""
        if self.is_embedded:
            return "apache-2.0"
        name = preset_name(self.recipe.model.preset).lower()
        return next((word for pattern, word in _LICENSES.items() if re.fullmatch(pattern, name)), None)

    def write(self, folder: Path, library: str) -> None:
        """Writes `README.md` into an exported folder, of the format `library`: `keras`, `transformers` or `peft`."""
        # No autoescaping, which is for HTML: each value of the template goes through one of the filters.
        loader = jinja2.PackageLoader("keras_aha.runs.export", ".")
        blocks = dict(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
        environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, **blocks)  # noqa: S701
        filters = {"text": as_text, "fenced": fenced, "json": json.dumps, "python": ascii, "percent": "{:.1%}".format}
        environment.filters |= filters
        page = environment.get_template("card.md").render(
            card=self,
            library=library,
            name=self.run.resolve().name,
            base=preset_name(self.recipe.model.preset),
            made_with=conditions(self.recipe, RECIPE),
            prompt=self.task.prompt(self.task.held_out(1).problem(0)),
            summary=self.summary,
            recipe_text=self._recipe_text(),
            version=importlib.metadata.version("keras-aha"),
        )
        (folder / "README.md").write_text(page, encoding="utf-8")

    @functools.cached_property
    def summary(self) -> dict:
        """`summary.json` if it is of this epoch, or as much as other files tell; `heldout_after` is `None` if there was
        no evaluation after it."""
        if self.epoch is not None and finished_epochs(self.run) == self.epoch:
            return json.loads((self.run / SUMMARY).read_bytes())
        history = read_history(self.run / HISTORY)
        history = history[history["epoch"] <= (self.epoch or len(history))]
        last = history.iloc[-1]
        after = {name: last[f"val_{name}"] for name in ("accuracy", "greedy_accuracy", "format_rate")}
        after["mean_completion_length"] = last["val_completion_length"]
        if not pd.isna(last.get("val_lenient_accuracy")):
            after["lenient_accuracy"] = last["val_lenient_accuracy"]
        for reward in self.recipe.rewards:
            if not pd.isna(mean := last.get(f"val_reward_{reward.name}")):
                after[f"mean_reward_{reward.name}"] = mean
        after["ci95"] = [last.get(f"val_accuracy_{end}") for end in ("low", "high")]  # not there in older runs
        return {
            "seed": self.recipe.training.seed,
            "epochs": len(history),
            "wall_seconds": history["epoch_seconds"].sum(),
            "generated_tokens": int(history["generated_tokens"].sum()),
            "heldout_before": summarize_held_out(*read_tables(self.run / BEFORE)),
            "heldout_after": None if pd.isna(last["val_accuracy"]) else after,
        }

    def _recipe_text(self) -> str:
        """The recipe without folders of the machine that trained: a card is published."""
        sections = self.recipe.to_dict()
        if Path(self.recipe.model.preset).is_absolute():
            sections["model"]["preset"] = preset_name(self.recipe.model.preset)
        names = ("lora", "task", "tasks", "priming", "rewards", "teacher")
        with_paths = {name: _last_names(sections[name]) for name in names if name in sections}
        return Recipe.from_dict(sections | with_paths).to_toml()


def _last_names(value):
    """The value, with the last name alone of each text in it that is an absolute path, and no template."""
    if isinstance(value, dict):
        return {key: inner if key == "template" else _last_names(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_last_names(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def as_text(value) -> str:
    """Any value as one line of Markdown that shows it and does nothing else, no HTML, link or picture."""
    return _MARKDOWN.sub(r"\\\1", printable(str(value), keep=""))


def fenced(text: str, language: str) -> str:
    """A text as a block of code, in a fence that no line of it closes."""
    visible = printable(text).strip()
    fence = "`" * (max([2, *map(len, re.findall("`+", visible))]) + 1)
    return f"{fence}{language}\n{visible}\n{fence}"
