"""The policy that a run has trained."""

import os
from pathlib import Path

from keras_aha.files import local_path
from keras_aha.models import lora
from keras_aha.models.lora import ADAPTERS
from keras_aha.recipes.recipe import RECIPE, Recipe
from keras_aha.recipes.values import assignment
from keras_aha.runs.build_policy import build_policy
from keras_aha.runs.check_files import PRESET, checkpoints
from keras_aha.runs.saved_policy import find_epoch, load_epoch
from keras_aha.runs.sources import BASE, base_checksum, check_sources

import keras_hub


def is_run(target: str | os.PathLike) -> bool:
    """Whether `target` is a run's folder, and no preset."""
    return os.path.isfile(Path(os.path.expanduser(target), RECIPE))


def load_trained(recipe: Recipe, log_dir: str | os.PathLike, epoch: int | str = "last") -> keras_hub.models.CausalLM:
    """The policy that a run has trained, after an epoch as `find_epoch` takes it: `recipe` is the run's own, `log_dir`
    its folder, which a `Run` wrote.

    Raises:
        RecipeError, ValueError: if that epoch is not saved, or the preset that the run started from is gone or another.
    """
    number, log_dir = find_epoch(log_dir, epoch), local_path(log_dir, "log_dir")
    is_checkpoint = number in checkpoints(log_dir)
    if not is_checkpoint and not recipe.lora.rank:
        return build_policy(recipe.override(assignment(BASE, str(log_dir / PRESET))))
    policy = build_policy(recipe.override("lora.start=none"))
    check_sources(log_dir, recipe, {BASE: base_checksum(policy)})
    if is_checkpoint:
        load_epoch(policy, log_dir, number)
    else:
        lora.load_adapters(policy.backbone, log_dir / ADAPTERS)
    return policy
