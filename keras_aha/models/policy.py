"""A recipe's policy: a preset found, loaded, quantized, and given adapters."""

from pathlib import Path

from keras_aha.models import lora
from keras_aha.models.abstract_backbone import ENCODERS, abstract_backbone, without_values
from keras_aha.models.presets import find_preset, load_preset, own_dtype
from keras_aha.models.quantization import abstract_quantized
from keras_aha.names import nearest
from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.sections import RecipeError

import jax
import jax.numpy as jnp
import keras
import keras_hub

_ENCODING_MODELS = (keras_hub.models.Gemma3CausalLM, keras_hub.models.Gemma4CausalLM)
# Their blocks multiply by the kernels of their feed-forward layers directly, past the scales of quantized ones.
_KERNEL_READERS = (keras_hub.models.Gemma4Backbone, keras_hub.models.Gemma3nBackbone)
_DTYPES = ("float32", "bfloat16", "float16")  # each also as Keras's "mixed_…", with weights in float32
_REMAT_FROM = 50_000_000  # parameters


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
