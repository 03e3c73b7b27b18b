"""The policy that a recipe describes."""

from pathlib import Path
from typing import Any

from keras_aha.files import local_path
from keras_aha.models.lora import ADAPTERS
from keras_aha.models.policy import load_policy
from keras_aha.recipes.recipe import RECIPE, Recipe
from keras_aha.recipes.values import RecipeError, in_section
from keras_aha.runs.check_files import saved_epochs
from keras_aha.runs.saved_policy import load_epoch

import keras_hub


def build_policy(recipe: Recipe, adapters: bool = True) -> keras_hub.models.CausalLM:
    """Loads the policy of `[model]`, with the adapters of `[lora]` and `training.remat`; see `load_policy`.

    Without `adapters`, `[lora]` and `model.quantization` are left alone: every weight is trainable. It raises
    RecipeError for what `load_policy` and `adapters_file` do.
    """
    if not adapters:
        recipe = recipe.override(["model.quantization=none", "lora.rank=0", "lora.start=none"])
    with in_section("model"):
        policy = load_policy(**policy_arguments(recipe), adapters=adapters_file(recipe))
        if epoch := start_epoch(recipe):
            load_epoch(policy, recipe.lora.start, epoch)
        return policy


def start_epoch(recipe: Recipe) -> int | None:
    """After which epoch adapters are taken if `lora.start` is the folder of a run that has checkpoints: the last."""
    return None if recipe.lora.start is None else saved_epochs(recipe.lora.start) or None


def policy_arguments(recipe: Recipe) -> dict[str, Any]:
    """The keyword arguments of `load_policy` and `abstract_policy`, but for adapters to start from."""
    model, lora = recipe.model, recipe.lora
    adapters = dict(lora_rank=lora.rank, lora_alpha=lora.alpha, lora_targets=lora.target)
    base = dict(preset=model.preset, dtype=model.dtype, quantization=model.quantization)
    return base | adapters | dict(remat=recipe.training.remat)


def check_base(recipe: Recipe) -> None:
    """Raises RecipeError for a quantized base without adapters, or whose rollouts are to be quantized again."""
    if recipe.model.quantization is None:
        return
    received = f"Received: model.quantization={recipe.model.quantization!r}"
    if not recipe.lora.rank:
        raise RecipeError(
            "Quantized weights cannot be trained, only adapters beside them: set lora.rank above 0 or "
            f'model.quantization="none". {received}, lora.rank=0'
        )
    if recipe.rollouts.quantization is not None:
        raise RecipeError(
            "A quantized base is sampled as it is: leave one of model.quantization and rollouts.quantization out. "
            f"{received}, rollouts.quantization={recipe.rollouts.quantization!r}"
        )


def adapters_file(recipe: Recipe) -> Path | None:
    """The file of adapters that `lora.start` names, `None` if it names none, or a run that has checkpoints; RecipeError
    if there are no adapters, or their run had another alpha."""
    section, epoch = recipe.lora, start_epoch(recipe)
    if section.start is None:
        return None
    path = local_path(section.start, "lora.start")
    path = path / ADAPTERS if path.is_dir() else path
    if epoch is None and not path.is_file():
        raise RecipeError(
            f"There are no adapters to start from: lora.start is the folder of a run, or its {ADAPTERS}. "
            f"Received: lora.start={section.start!r}"
        )
    saved = path.with_name(RECIPE)
    before = (Recipe.load(saved).lora if saved.is_file() else section).alpha or section.rank
    if before != (section.alpha or section.rank):
        raise RecipeError(
            f"The run that saved the adapters multiplied them by another alpha: set lora.alpha={before}. "
            f"Received: lora.start={section.start!r}, lora.alpha={section.alpha}, lora.rank={section.rank}"
        )
    return path if epoch is None else None
