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
from keras_aha.models import hugging_face
from keras_aha.names import bare_name, printable
from keras_aha.recipes.recipe import RECIPE, Recipe
from keras_aha.runs.check_files import finished_epochs
from keras_aha.runs.experiment import summarize_held_out
from keras_aha.runs.report.run_record import read_history
from keras_aha.tasks import Task

import jinja2
import pandas as pd

# Gemma 4 came under the Apache License, as did the embedded model.
_LICENSES = {r"(code_)?gemma(2|3|3n|_1\.1|)_.*": "gemma", r"gemma4_.*": "apache-2.0"}
_MARKDOWN = re.compile(r"([!-/:-@\[-`{-~])")  # what CommonMark lets be escaped, §2.4


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """The facts about a run that its exported folders tell."""

    run: Path  # the run's folder
    recipe: Recipe  # the run's own
    epoch: int | None  # after which the policy is exported; `None` if that is not known
    task: Task  # what it was trained on
    end_tokens: dict[int, str]  # id → piece, of the tokens that end a completion
    class_names: dict[str, str]  # the policy's class in keras-hub, and in transformers if it has one

    @property
    def hub_name(self) -> str | None:
        """The base's repository on Hugging Face; `None` if it is on no hub, or it is not known which."""
        return hugging_face.hub_name(self.recipe.model.preset)

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
        name = bare_name(self.recipe.model.preset)
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
            base=bare_name(self.recipe.model.preset).rstrip("/").rpartition("/")[2],
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
            return json.loads((self.run / SUMMARY).read_text(encoding="utf-8"))
        history = read_history(self.run / HISTORY)
        history = history[history["epoch"] <= (self.epoch or len(history))]
        last = history.iloc[-1]
        after = {name: last[f"val_{name}"] for name in ("accuracy", "greedy_accuracy", "format_rate")}
        after["mean_completion_length"] = last["val_completion_length"]
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
        text = (self.run / RECIPE).read_text(encoding="utf-8")
        for path in (self.recipe.model.preset, self.recipe.lora.start, *self.recipe.task.arguments.values()):
            if isinstance(path, str) and Path(path).is_absolute():
                text = text.replace(path, Path(path).name)
        return text


def as_text(value) -> str:
    """Any value as one line of Markdown that shows it and does nothing else, no HTML, link or picture."""
    return _MARKDOWN.sub(r"\\\1", printable(str(value), keep=""))


def fenced(text: str, language: str) -> str:
    """A text as a block of code, in a fence that no line of it closes."""
    visible = printable(text).strip()
    fence = "`" * (max([2, *map(len, re.findall("`+", visible))]) + 1)
    return f"{fence}{language}\n{visible}\n{fence}"
