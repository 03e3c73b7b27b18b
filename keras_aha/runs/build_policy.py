"""The policy that a recipe describes."""

import json
from pathlib import Path

from keras_aha.files import presets_folder
from keras_aha.models import lora
from keras_aha.models.abstract_backbone import abstract_backbone, scale_queries, without_values
from keras_aha.models.policy import (
    _check_dtype,
    _check_loaded,
    _check_quantizable,
    _enable_lora,
    _load_text_model,
    blocks_to_compute_again,
    is_download,
    load_tokenizer,
)
from keras_aha.models.presets import find_preset
from keras_aha.models.quantization import quantize_base
from keras_aha.recipes.recipe import RECIPE, Recipe
from keras_aha.recipes.values import RecipeError

import keras
import keras_hub


def build_policy(recipe: Recipe, adapters: bool = True) -> keras_hub.models.CausalLM:
    """Loads the policy of `[model]`, quantized if it says so, and enables or loads the adapters of `[lora]`.

    Float weights are loaded and then quantized layer by layer, so for a moment their memory is needed.

    Args:
        recipe: its sections `model` and `lora` are read.
        adapters: `False` leaves `[lora]` and `model.quantization` alone: every weight is trainable.

    Raises:
        RecipeError, ValueError: an unknown preset or dtype, a preset that cannot be loaded, no such layers to adapt,
            adapters to start from that are missing or others (both before weights are loaded), an architecture that
            cannot be quantized, or not so on several devices, or weights that are not finite.
    """
    _check_dtype(recipe)
    quantization = recipe.model.quantization if adapters else None
    if quantization:
        _check_quantizable(recipe, load_tokenizer(recipe).backbone_cls)
    if adapters and recipe.lora.rank:
        _check_adapters(recipe)
    elif adapters and recipe.lora.start is not None:
        raise RecipeError(
            "There are no adapters to load where every weight is trained: leave lora.start out, or name the run's "
            f"preset folder as model.preset. Received: lora.start={recipe.lora.start!r}, lora.rank=0"
        )
    with keras.RematScope(mode="list_of_layers", layer_names=blocks_to_compute_again(recipe)):
        policy = _load_text_model(recipe)
    scale_queries(policy.backbone)
    _check_loaded(recipe, policy.backbone)
    if quantization:
        quantize_base(policy.backbone, quantization)
    if adapters and recipe.lora.rank:
        _enable_lora(policy.backbone, recipe.lora)
        if recipe.lora.start is not None:
            lora.load_adapters(policy.backbone, _adapters_file(recipe.lora.start))
    return policy


def check_base(recipe: Recipe) -> None:
    """Checks, without loading anything, that what is to be trained can be beside `model.quantization`.

    Raises:
        RecipeError: a quantized base without adapters, or whose rollouts are to be quantized again.
    """
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


def with_absolute_preset(recipe: Recipe) -> Recipe:
    """The recipe, its preset an absolute path where it is a folder of the user's.

    Raises:
        RecipeError: an unknown preset.
    """
    if is_download(recipe) or (presets_folder() / recipe.model.preset).is_dir():
        return recipe
    return recipe.override(f"model.preset={json.dumps(find_preset(recipe.model.preset))}")


def _check_adapters(recipe: Recipe) -> None:
    """Raises RecipeError or ValueError where `[lora]` names no layers, or other adapters than the policy will have."""
    section = recipe.lora
    backbone = abstract_backbone(recipe.model.preset, recipe.model.dtype)
    with without_values():
        _enable_lora(backbone, section)
    if section.start is None:
        return
    path = _adapters_file(section.start)
    lora.check_adapters(backbone, path)
    saved = path.with_name(RECIPE)
    before = (Recipe.load(saved).lora if saved.is_file() else section).alpha or section.rank
    if before != (section.alpha or section.rank):
        raise RecipeError(
            f"The run that saved the adapters multiplied them by another alpha: set lora.alpha={before}. "
            f"Received: lora.start={section.start!r}, lora.alpha={section.alpha}, lora.rank={section.rank}"
        )


def _adapters_file(start: str) -> Path:
    path = Path(start) / lora.ADAPTERS if Path(start).is_dir() else Path(start)
    if not path.is_file():
        raise RecipeError(
            f"There are no adapters to start from: lora.start is the folder of a finished run, or its {lora.ADAPTERS}. "
            f"Received: lora.start={start!r}"
        )
    return path
