"""A recipe's policy: a preset found, loaded, quantized, and given adapters."""

import json
from pathlib import Path

from keras_aha import lora
from keras_aha.architecture import ENCODERS, abstract_backbone, scale_queries, without_values
from keras_aha.preset import find_preset, load_preset, own_dtype
from keras_aha.quantization import abstract_quantized, quantize_base
from keras_aha.recipe import RECIPE, Recipe, presets_folder
from keras_aha.recipe_sections import RecipeError, nearest

import jax
import jax.numpy as jnp
import keras
import keras_hub

_ENCODING_MODELS = (keras_hub.models.Gemma3CausalLM, keras_hub.models.Gemma4CausalLM)
# Their blocks multiply by the kernels of their feed-forward layers directly, past the scales of quantized ones.
_KERNEL_READERS = (keras_hub.models.Gemma4Backbone, keras_hub.models.Gemma3nBackbone)
_DTYPES = ("float32", "bfloat16", "float16")  # each also as Keras's "mixed_…", with weights in float32
_REMAT_FROM = 50_000_000  # parameters


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


def abstract_policy(recipe: Recipe) -> keras_hub.models.CausalLM:
    """The policy that `build_policy` makes, in no memory: its variables have no values, and it has no preprocessor.

    Args:
        recipe: its sections `model` and `lora` are read.

    Raises:
        RecipeError: an unknown preset, no such layers to adapt, or an architecture that cannot be quantized.
    """
    _check_dtype(recipe)
    blocks = blocks_to_compute_again(recipe)
    with keras.RematScope(mode="list_of_layers", layer_names=blocks), without_values():
        backbone = abstract_backbone(recipe.model.preset, recipe.model.dtype)
        if recipe.model.quantization:
            _check_quantizable(recipe, type(backbone))
            backbone = abstract_quantized(backbone, recipe.model.quantization)
        if recipe.lora.rank:
            _enable_lora(backbone, recipe.lora)
        kind = getattr(keras_hub.models, type(backbone).__name__.replace("Backbone", "CausalLM"))
        return kind(backbone=backbone, preprocessor=None, compile=False)  # compiled, it would have an optimizer


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


def load_tokenizer(recipe: Recipe) -> keras_hub.tokenizers.Tokenizer:
    """The tokenizer of `[model]`, without the weights.

    Raises:
        RecipeError: an unknown preset, or one that cannot be loaded.
    """
    return load_preset(keras_hub.tokenizers.Tokenizer, recipe.model.preset)


def is_download(recipe: Recipe) -> bool:
    """Whether `[model]` names a preset of keras-hub or a handle, and no folder here.

    Raises:
        RecipeError: an unknown preset.
    """
    return not Path(find_preset(recipe.model.preset)).is_absolute()


def with_absolute_preset(recipe: Recipe) -> Recipe:
    """The recipe, its preset an absolute path where it is a folder of the user's.

    Raises:
        RecipeError: an unknown preset.
    """
    if is_download(recipe) or (presets_folder() / recipe.model.preset).is_dir():
        return recipe
    return recipe.override(f"model.preset={json.dumps(find_preset(recipe.model.preset))}")


def _check_dtype(recipe: Recipe) -> None:
    dtype = recipe.model.dtype
    if dtype.removeprefix("mixed_") not in _DTYPES:
        raise RecipeError(f"A policy computes in one of {', '.join(_DTYPES)}. Received: model.dtype={dtype!r}")


def _check_quantizable(recipe: Recipe, backbone: type) -> None:
    devices = len(keras.distribution.list_devices())
    if recipe.model.quantization == "int4" and keras.distribution.distribution() is not None:
        raise RecipeError(
            "Kernels in 4 bits are packed into matrices, for which there is no layout on several devices: set "
            f'model.quantization="int8". Received: model.quantization="int4", {devices} devices'
        )
    if issubclass(backbone, _KERNEL_READERS):
        raise RecipeError(
            f"keras-hub's {backbone.__name__} computes with its kernels past the scales of a quantized one: set "
            f'model.quantization="none". Received: model.quantization={recipe.model.quantization!r}, '
            f"model.preset={recipe.model.preset!r}"
        )


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


def blocks_to_compute_again(recipe: Recipe) -> list[str]:
    """The transformer layers, if the backward pass computes their activations again; see `training.remat`."""
    backbone, remat = abstract_backbone(recipe.model.preset, recipe.model.dtype), recipe.training.remat
    if remat is None:
        remat = backbone.count_params() >= _REMAT_FROM
    return [layer.name for layer in backbone.transformer_layers] if remat else []


def _load_text_model(recipe: Recipe) -> keras_hub.models.CausalLM:
    model = recipe.model
    tokenizer = load_tokenizer(recipe)
    for kind in _ENCODING_MODELS:
        if tokenizer.backbone_cls is kind.backbone_cls:
            encoders = dict.fromkeys(ENCODERS[kind.backbone_cls])
            backbone = load_preset(kind.backbone_cls, model.preset, dtype=model.dtype, **encoders)
            return kind(backbone=backbone, preprocessor=kind.preprocessor_cls(tokenizer))
    with own_dtype(tokenizer.backbone_cls, model.dtype):
        return load_preset(keras_hub.models.CausalLM, model.preset, dtype=model.dtype)


def _check_loaded(recipe: Recipe, backbone) -> None:
    """Raises RecipeError where the weights are broken, or another model's than that which all has been checked for."""
    received = f"Received: model.preset={recipe.model.preset!r}"
    described = abstract_backbone(recipe.model.preset, recipe.model.dtype).count_params()
    if backbone.count_params() != described:
        raise RecipeError(
            f"The preset's config.json describes a model of {described:,} parameters, and its task.json one of "
            f"{backbone.count_params():,}. {received}"
        )
    for variable in backbone.variables:
        if keras.backend.is_float_dtype(variable.dtype) and not _is_finite(variable.value):
            raise RecipeError(f"The preset's weights are not finite: it is broken. {received}, {variable.path}")


@jax.jit
def _is_finite(x):
    return jnp.isfinite(x).all()


def _enable_lora(backbone, section) -> None:
    adaptable = (keras.layers.Dense, keras.layers.EinsumDense)  # keras-hub saves no others' adapters
    names = {layer.name for layer in backbone._flatten_layers() if isinstance(layer, adaptable)}
    for name in section.target:
        if name not in names:
            raise RecipeError(
                f"The policy has no layer {name!r} to adapt; the nearest is {nearest(name, sorted(names))!r}. "
                f"Received: lora.target={list(section.target)}, and layers {', '.join(sorted(names))}"
            )
    backbone.enable_lora(section.rank, target_layer_names=list(section.target))
    if section.alpha is not None:
        lora.set_alpha(backbone, section.alpha)
    if not lora.has_adapters(backbone):
        raise RecipeError("No layer was adapted: name some, or set lora.rank=0. Received: lora.target=[]")
