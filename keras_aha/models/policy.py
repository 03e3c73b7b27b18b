"""`load_policy`: a keras-hub preset found, loaded, checked, quantized, and given adapters."""

import os
from pathlib import Path

from keras_aha.models import lora
from keras_aha.models.abstract_backbone import ENCODERS, abstract_backbone, scale_queries
from keras_aha.models.internals import flatten_layers, without_values
from keras_aha.models.presets import load_preset, load_tokenizer, own_dtype
from keras_aha.models.quantization import abstract_quantized, quantize_base
from keras_aha.names import suggestion

import jax
import jax.numpy as jnp
import keras
import keras_hub

# Names of Gemma's linear layers.
LINEARS = ("query", "key", "value", "attention_output", "ffw_gating", "ffw_gating_2", "ffw_linear")
_ENCODING_MODELS = (keras_hub.models.Gemma3CausalLM, keras_hub.models.Gemma4CausalLM)
# Their blocks multiply by the kernels of their feed-forward layers directly, past the scales of quantized ones.
_KERNEL_READERS = (keras_hub.models.Gemma4Backbone, keras_hub.models.Gemma3nBackbone)
_DTYPES = ("float32", "bfloat16", "float16")  # each also as Keras's "mixed_…", with weights in float32
_REMAT_FROM = 50_000_000  # parameters


def load_policy(
    preset: str,
    *,
    dtype: str = "float32",
    quantization: str | None = None,
    remat: bool | None = None,
    lora_rank: int = 16,
    lora_alpha: float | None = None,
    lora_targets: tuple[str, ...] = LINEARS,
    adapters: str | os.PathLike | None = None,
) -> keras_hub.models.CausalLM:
    """Loads a policy, as `GRPOModel` takes it: the text part of a keras-hub preset, checked, with adapters to train.

    Models that see or hear are loaded without those encoders. Queries of the models of 27B are scaled as in their
    training, see `scale_queries`. Float weights are loaded and then quantized layer by layer, so for a moment their
    memory is needed.

    Args:
        preset: a keras-hub preset, a handle, a folder that `save_to_preset` wrote, or a model that comes with
            keras-aha, such as "countdown_tiny".
        dtype: of the weights and of what is computed with them: "float32", "bfloat16", "float16", or "mixed_…" of one.
        quantization: `"int8"` or `"int4"` quantizes the weights, which are frozen then; `None` leaves them as they are.
        remat: whether the backward pass computes activations again, a block at a time: less memory, and a forward pass
            more. `None` does it with models of 50 million parameters or more.
        lora_rank: of the adapters; 0 makes none and trains every weight.
        lora_alpha: Keras multiplies adapters by `lora_alpha` / `lora_rank`; `None` is the rank itself.
        lora_targets: names of the layers of the backbone that get adapters; by default all of Gemma's linears.
        adapters: a file of adapters that `lora.save_adapters` wrote, to start from; `None` starts from new ones.

    Returns:
        A `keras_hub.models.CausalLM`; its trainable variables are the adapters, or all weights where there are none.

    Raises:
        ValueError: an unknown preset or dtype, a preset that cannot be loaded, no such layers to adapt, adapters that
            are missing or of another shape (all of this before weights are loaded), an architecture that cannot be
            quantized, or not so on several devices, or weights that are not finite.
    """
    arguments = dict(lora_rank=lora_rank, lora_alpha=lora_alpha, lora_targets=lora_targets)
    _check(preset, dtype, quantization, **arguments, adapters=adapters)
    with _rematerialised(preset, dtype, remat):
        policy = _load_text_model(preset, dtype)
    scale_queries(policy.backbone)
    _check_loaded(preset, dtype, policy.backbone)
    if quantization:
        quantize_base(policy.backbone, quantization)
    if lora_rank:
        _enable_lora(policy.backbone, **arguments)
    if adapters is not None:
        lora.load_adapters(policy.backbone, adapters)
    return policy


def abstract_policy(
    preset: str,
    *,
    dtype: str = "float32",
    quantization: str | None = None,
    remat: bool | None = None,
    lora_rank: int = 16,
    lora_alpha: float | None = None,
    lora_targets: tuple[str, ...] = LINEARS,
) -> keras_hub.models.CausalLM:
    """The policy that `load_policy` loads, in no memory: its variables have no values, and it has no preprocessor.

    Args:
        preset, dtype, quantization, remat, lora_rank, lora_alpha, lora_targets: see `load_policy`.

    Raises:
        ValueError: an unknown preset or dtype, no such layers to adapt, or an architecture that cannot be quantized.
    """
    _check_dtype(dtype)
    with _rematerialised(preset, dtype, remat), without_values():
        backbone = abstract_backbone(preset, dtype)
        if quantization:
            _check_quantizable(quantization, type(backbone))
            backbone = abstract_quantized(backbone, quantization)
        if lora_rank:
            _enable_lora(backbone, lora_rank, lora_alpha, lora_targets)
        kind = getattr(keras_hub.models, type(backbone).__name__.replace("Backbone", "CausalLM"))
        return kind(backbone=backbone, preprocessor=None, compile=False)  # compiled, it would have an optimizer


def rematerialised_blocks(preset: str, dtype: str, remat: bool | None) -> list[str]:
    """The transformer layers whose activations the backward pass computes again, see `load_policy`."""
    backbone = abstract_backbone(preset, dtype)
    if remat is None:
        remat = backbone.count_params() >= _REMAT_FROM
    return [layer.name for layer in backbone.transformer_layers] if remat else []


def _rematerialised(preset, dtype, remat):
    return keras.RematScope(mode="list_of_layers", layer_names=rematerialised_blocks(preset, dtype, remat))


def _load_text_model(preset: str, dtype: str) -> keras_hub.models.CausalLM:
    tokenizer = load_tokenizer(preset)
    for kind in _ENCODING_MODELS:
        if tokenizer.backbone_cls is kind.backbone_cls:
            encoders = dict.fromkeys(ENCODERS[kind.backbone_cls])
            backbone = load_preset(kind.backbone_cls, preset, dtype=dtype, **encoders)
            return kind(backbone=backbone, preprocessor=kind.preprocessor_cls(tokenizer))
    with own_dtype(tokenizer.backbone_cls, dtype):
        return load_preset(keras_hub.models.CausalLM, preset, dtype=dtype)


def _enable_lora(backbone, lora_rank, lora_alpha, lora_targets) -> None:
    adaptable = (keras.layers.Dense, keras.layers.EinsumDense)  # keras-hub saves no others' adapters
    names = {layer.name for layer in flatten_layers(backbone) if isinstance(layer, adaptable)}
    for name in lora_targets:
        if name not in names:
            raise ValueError(
                f"The policy has no layer {name!r} to adapt{suggestion(name, sorted(names), '{!r}')}. "
                f"Received: lora_targets={list(lora_targets)}, and layers {', '.join(sorted(names))}"
            )
    backbone.enable_lora(lora_rank, target_layer_names=list(lora_targets))
    if lora_alpha is not None:
        lora.set_alpha(backbone, lora_alpha)
    if not lora.has_adapters(backbone):
        raise ValueError("No layer was adapted: name some, or set lora_rank=0. Received: lora_targets=[]")


# === Checks ===


def _check(preset, dtype, quantization, lora_rank, lora_alpha, lora_targets, adapters) -> None:
    """What can be checked before weights are loaded."""
    _check_dtype(dtype)
    if quantization:
        _check_quantizable(quantization, load_tokenizer(preset).backbone_cls)
        if not lora_rank:
            raise ValueError(
                "Quantized weights cannot be trained, only adapters beside them: set `lora_rank` above 0 or leave "
                f"`quantization` out. Received: quantization={quantization!r}, lora_rank=0"
            )
    if adapters is not None and not lora_rank:
        raise ValueError(
            "There are no adapters to load if every weight is trained: leave `adapters` out, or load the preset folder "
            f"of that run as `preset`. Received: adapters={str(adapters)!r}, lora_rank=0"
        )
    if lora_rank:
        backbone = abstract_backbone(preset, dtype)
        with without_values():
            _enable_lora(backbone, lora_rank, lora_alpha, lora_targets)
        if adapters is not None:
            lora.check_adapters(backbone, Path(adapters))


def _check_dtype(dtype: str) -> None:
    if dtype.removeprefix("mixed_") not in _DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(_DTYPES)}. Received: dtype={dtype!r}")


def _check_quantizable(quantization: str, backbone: type) -> None:
    devices = len(keras.distribution.list_devices())
    if quantization == "int4" and keras.distribution.distribution() is not None:
        raise ValueError(
            "Kernels in 4 bits are packed into matrices, for which there is no layout on several devices: set "
            f'quantization="int8". Received: quantization="int4", {devices} devices'
        )
    if issubclass(backbone, _KERNEL_READERS):
        raise ValueError(
            f"keras-hub's {backbone.__name__} computes with its kernels past the scales of a quantized one: leave "
            f"`quantization` out. Received: quantization={quantization!r}"
        )


def _check_loaded(preset: str, dtype: str, backbone) -> None:
    """Raises ValueError if the weights are broken, or another model's than that which all has been checked for."""
    received = f"Received: preset={preset!r}"
    described = abstract_backbone(preset, dtype).count_params()
    if backbone.count_params() != described:
        raise ValueError(
            f"The preset's config.json describes a model of {described:,} parameters, and its task.json one of "
            f"{backbone.count_params():,}. {received}"
        )
    for variable in backbone.variables:
        if keras.backend.is_float_dtype(variable.dtype) and not _is_finite(variable.value):
            raise ValueError(f"The preset's weights are not finite: it is broken. {received}, {variable.path}")


@jax.jit
def _is_finite(x):
    return jnp.isfinite(x).all()
