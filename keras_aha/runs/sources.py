"""`sources.json`: checksums of what a run's recipe names by a path, so that it may lie elsewhere later."""

import hashlib
import os
from collections.abc import Mapping

from keras_aha.distribution.checksums import checksums, combined
from keras_aha.models.internals import flatten_layers
from keras_aha.recipes.recipe import Recipe
from keras_aha.runs.build_policy import adapters_file
from keras_aha.runs.build_task import task_files
from keras_aha.runs.check_files import SOURCES, read_sources
from keras_aha.tasks.rows_file import row_files
from keras_aha.tasks.tools.passages import corpus_files

import keras_hub

BASE = "model.preset"


def source_checksums(
    recipe: Recipe, policy: keras_hub.models.CausalLM, others: Mapping[str, keras_hub.models.CausalLM] | None = None
) -> dict[str, int | str]:
    """Key of the recipe → checksum of what lies at its path, of what a run reads; all processes must call this.

    `others` are the models beside the policy, by the keys that name them: of judges and of a teacher.
    """
    files = {key: path for key, path in task_files(recipe).items() if not key.startswith("priming.")}
    if start := adapters_file(recipe):  # and no checkpoint of a run, which may have trained on meanwhile
        files["lora.start"] = start
    found = {key: base_checksum(model) for key, model in {BASE: policy, **(others or {})}.items()}
    for key, named in files.items():
        several = isinstance(named, tuple) or os.path.isdir(named)
        digest = hashlib.sha256()
        files_at = corpus_files if key.endswith(".corpus") else row_files
        for path in files_at(named, key) if several else [named]:
            with open(path, "rb") as file:
                hashlib.file_digest(file, lambda: digest)  # noqa: B023  which is called at once
        found[key] = digest.hexdigest()
    return found


def base_checksum(policy: keras_hub.models.CausalLM) -> int:
    """One number for the weights of the preset that are not trained, but for quantized layers: other devices round
    those otherwise, and norms tell models apart. All processes must call this."""
    layers = flatten_layers(policy.backbone)
    quantized = {id(v) for layer in layers if layer.quantization_mode is not None for v in layer.weights}
    own = [v for v in policy.backbone.weights if id(v) not in quantized and not v.trainable]
    return combined(checksums([variable.value for variable in own]))


def check_sources(log_dir: str | os.PathLike, recipe: Recipe, found: dict[str, int | str]) -> None:
    """Raises ValueError if what a recipe names by a path is not what the run in a folder began with."""
    began = read_sources(log_dir)
    for key in began.keys() & found.keys():
        if began[key] != found[key]:
            raise ValueError(
                f"What lies there is not what the run began with, by its checksum in {SOURCES}: name the place where "
                f"that lies, by {key} (--set {key}=PATH). Received: {key}={recipe.flat()[key]!r}"
            )
