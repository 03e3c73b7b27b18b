"""`load_policy`: a keras-hub preset found, loaded, checked, quantized, and given adapters."""

import os

from keras_aha.models import lora
from keras_aha.models.abstract_backbone import ENCODERS, abstract_backbone, new_backbone, scale_queries
from keras_aha.models.dtype_policy import dtype_policy
from keras_aha.models.internals import embeddings_variable, flatten_layers, without_values
from keras_aha.models.presets import load_preset, load_tokenizer, own_dtype
from keras_aha.models.quantization import abstract_quantized, quantize_base
from keras_aha.models.tiny_gemma import vocabulary
from keras_aha.names import suggestion

import jax
import jax.numpy as jnp
import keras
import keras_hub

LINEARS = ("query", "key", "value", "attention_output", "ffw_gating", "ffw_gating_2", "ffw_linear")  # of a Gemma
_ENCODING_MODELS = (keras_hub.models.Gemma3CausalLM, keras_hub.models.Gemma4CausalLM)
_SEEING = {  # what their tokenizers may be told to lack
    keras_hub.models.Gemma3CausalLM: dict(has_vision_tokens=False),
    keras_hub.models.Gemma4CausalLM: dict(has_vision_tokens=False, has_video_tokens=False),
}
# Their blocks multiply by the kernels of their feed-forward layers directly, past the scales of quantized ones.
_KERNEL_READERS = (keras_hub.models.Gemma4Backbone, keras_hub.models.Gemma3nBackbone)
_DTYPES = ("float32", "bfloat16", "float16")  # each also as Keras's "mixed_…", with weights in float32
_QUANTIZATIONS = ("int8", "int4")
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
    training, see `scale_queries`. If weights are quantized, the float weights need memory for a moment too.

    Args:
        preset: a keras-hub preset, a handle, a folder that `save_to_preset` wrote, or a model that comes with
            keras-aha, such as "countdown_tiny".
        dtype: of the weights and of what is computed with them: "float32", "bfloat16", "float16", or "mixed_…" of one,
            with weights in float32. In float16 only a Gemma's matrices are, see `models.dtype_policy`.
        quantization: `"int8"` or `"int4"` quantizes the weights, which are frozen then; `None` leaves them as they are.
        remat: whether the backward pass computes activations again, a block at a time: less memory, and a forward pass
            more. `None` does it with models of 50 million parameters or more.
        lora_rank: of the adapters; 0 makes none and trains every weight.
        lora_alpha: Keras multiplies adapters by `lora_alpha` / `lora_rank`; `None` is the rank itself.
        lora_targets: names of the layers of the backbone that get adapters; by default all of Gemma's linears.
        adapters: a file of adapters that `lora.save_adapters` wrote, to start from; `None` starts from new ones.

    Returns:
        A `keras_hub.models.CausalLM`; its trainable variables are the adapters, or all weights if there are none.

    Raises:
        ValueError: before weights are loaded, an unknown preset, dtype or quantization, an architecture that cannot be
            quantized, or not on several devices, no such layers to adapt, adapters that are missing or of another
            shape; and afterwards, a preset that cannot be loaded, or weights that are not finite.
    """
    if adapters is not None and not lora_rank:
        raise ValueError(
            "There are no adapters to load if every weight is trained: leave `adapters` out, or load the preset folder "
            f"of that run as `preset`. Received: adapters={str(adapters)!r}, lora_rank=0"
        )
    _check(dtype, quantization, lora_rank)
    described = abstract_backbone(preset, dtype)
    if quantization:
        _check_quantizable(quantization, type(described))
    if lora_rank:
        with without_values():
            _enable_lora(described, lora_rank, lora_alpha, lora_targets)
        if adapters is not None:
            lora.check_adapters(described, adapters)

    # Keras draws seeds as it makes layers, abstract ones too: with one backbone fewer, adapters would begin elsewhere.
    with _rematerialised(preset, dtype, remat):
        policy = _load_text_model(preset, dtype)
    backbone = scale_queries(policy.backbone)
    _check_loaded(preset, abstract_backbone(preset, dtype).count_params(), backbone)
    if quantization:
        quantize_base(backbone, quantization)
    if lora_rank:
        _enable_lora(backbone, lora_rank, lora_alpha, lora_targets)
    if adapters is not None:
        lora.load_adapters(backbone, adapters)
    return policy


def load_frozen(preset: str, *, dtype: str = "float32", quantization: str | None = None):
    """Loads a model that is never trained: `load_policy`, with its errors, but without adapters even if quantized."""
    check_frozen(preset, dtype=dtype, quantization=quantization)
    policy = load_policy(preset, dtype=dtype, remat=False, lora_rank=0)
    if quantization:
        quantize_base(policy.backbone, quantization)
    policy.trainable = False
    return policy


def check_frozen(preset: str, *, dtype: str = "float32", quantization: str | None = None) -> None:
    """Raises ValueError for what `load_frozen` does before weights are loaded."""
    _check(dtype, quantization, lora_rank=1)
    described = abstract_backbone(preset, dtype)
    if quantization:
        _check_quantizable(quantization, type(described))


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
    """The policy that `load_policy` loads from these arguments, in no memory: no values, and no preprocessor.

    It raises ValueError for what `load_policy` does before weights are loaded.
    """
    _check(dtype, quantization, lora_rank)
    return _abstract(preset, dtype, quantization, remat, lora_rank and (lora_rank, lora_alpha, lora_targets))


def abstract_frozen(preset: str, *, dtype: str = "float32", quantization: str | None = None):
    """The model that `load_frozen` loads from these arguments, in no memory, with its errors; see `abstract_policy`."""
    _check(dtype, quantization, lora_rank=1)
    return _abstract(preset, dtype, quantization, remat=False)


def _abstract(preset, dtype, quantization, remat, adapters=()) -> keras_hub.models.CausalLM:
    with _rematerialised(preset, dtype, remat), without_values():
        backbone = abstract_backbone(preset, dtype)  # made in the scope of RematScope, or its layers know nothing of it
        if quantization:
            _check_quantizable(quantization, type(backbone))
            backbone = abstract_quantized(backbone, quantization)
        if adapters:
            _enable_lora(backbone, *adapters)
        kind = getattr(keras_hub.models, type(backbone).__name__.replace("Backbone", "CausalLM"))
        return kind(backbone=backbone, preprocessor=None, compile=False)  # compiled, it would have an optimizer


def random_policy(preset: str, *, seed: int = 0, **arguments) -> keras_hub.models.CausalLM:
    """The policy that `load_policy` loads, with random weights, adapters too, so that nothing is downloaded.

    Logits have about unit variance. Its tokenizer is the embedded model's, so its texts mean nothing.

    Args:
        preset: one of a Gemma, of `known_presets`.
        seed: of all weights.
        **arguments: those of `abstract_policy`, which raises the same errors.
    """
    described = abstract_policy(preset, **arguments)
    kind, dtype = type(described), arguments.get("dtype", "float32")
    keras.utils.set_random_seed(seed)
    with _rematerialised(preset, dtype, arguments.get("remat")):
        backbone = new_backbone(preset, dtype)
    table = embeddings_variable(backbone.token_embedding)
    table.assign(keras.random.normal(table.shape, stddev=backbone.hidden_dim**-0.5, dtype=table.dtype))
    if quantization := arguments.get("quantization"):
        quantize_base(backbone, quantization)
    if lora_rank := arguments.get("lora_rank", 16):
        _enable_lora(backbone, lora_rank, arguments.get("lora_alpha"), arguments.get("lora_targets", LINEARS))
        for variable in backbone.trainable_variables:
            variable.assign(keras.random.normal(variable.shape, stddev=0.02, dtype=variable.dtype))
    tokenizer = kind.preprocessor_cls.tokenizer_cls(proto=vocabulary(), **_SEEING.get(kind, {}))
    return kind(backbone=backbone, preprocessor=kind.preprocessor_cls(tokenizer), compile=False)


def rematerialised_blocks(preset: str, dtype: str, remat: bool | None) -> list[str]:
    """The transformer layers whose activations the backward pass computes again, see `load_policy`."""
    backbone = abstract_backbone(preset, dtype)
    if remat is None:
        remat = backbone.count_params() >= _REMAT_FROM
    return [layer.name for layer in backbone.transformer_layers] if remat else []


def _rematerialised(preset, dtype, remat) -> keras.RematScope:
    return keras.RematScope(mode="list_of_layers", layer_names=rematerialised_blocks(preset, dtype, remat))


def _load_text_model(preset: str, dtype: str) -> keras_hub.models.CausalLM:
    tokenizer = load_tokenizer(preset)
    policy = dtype_policy(tokenizer.backbone_cls, dtype)
    for kind in _ENCODING_MODELS:
        if tokenizer.backbone_cls is kind.backbone_cls:
            changes = dict.fromkeys(ENCODERS[kind.backbone_cls]) | _soft_cap(kind, preset)
            backbone = load_preset(kind.backbone_cls, preset, dtype=policy, **changes)
            return kind(backbone=backbone, preprocessor=kind.preprocessor_cls(tokenizer))
    with own_dtype(tokenizer.backbone_cls, dtype):
        return load_preset(keras_hub.models.CausalLM, preset, dtype=policy)


def _soft_cap(kind: type, preset: str) -> dict[str, float]:
    """The soft cap of logits as a backbone's argument, where a Gemma 4 has it in task.json and not in config.json."""
    if kind is not keras_hub.models.Gemma4CausalLM:
        return {}
    with without_values():
        described = load_preset(kind, preset, load_weights=False, preprocessor=None, compile=False)
    cap = described.backbone.final_logit_soft_cap or described.final_logit_cap
    return {"final_logit_soft_cap": cap}


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
    for layer in lora.adapted_layers(backbone):
        layer.lora_alpha = lora_rank if lora_alpha is None else lora_alpha  # keras-hub's `enable_lora` takes none
    if not lora.has_adapters(backbone):
        raise ValueError("No layer was adapted: name some, or set lora_rank=0. Received: lora_targets=[]")
    lora.freeze_base(backbone)


def _check(dtype, quantization, lora_rank) -> None:
    if dtype.removeprefix("mixed_") not in _DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(_DTYPES)}. Received: dtype={dtype!r}")
    if quantization is not None and quantization not in _QUANTIZATIONS:
        raise ValueError(
            f"`quantization` must be {' or '.join(_QUANTIZATIONS)}, or None. Received: quantization={quantization!r}"
        )
    if quantization and not lora_rank:
        raise ValueError(
            "Quantized weights cannot be trained, only adapters beside them: set `lora_rank` above 0 or leave "
            f"`quantization` out. Received: quantization={quantization!r}, lora_rank=0"
        )


def _check_quantizable(quantization: str, backbone: type) -> None:
    if quantization == "int4" and keras.distribution.distribution() is not None:
        raise ValueError(
            "Kernels in 4 bits are packed into matrices, for which there is no layout on several devices: set "
            f'quantization="int8". Received: quantization="int4", {len(keras.distribution.list_devices())} devices'
        )
    if issubclass(backbone, _KERNEL_READERS):
        raise ValueError(
            f"keras-hub's {backbone.__name__} computes with its kernels past the scales of a quantized one: leave "
            f"`quantization` out. Received: quantization={quantization!r}"
        )


def _check_loaded(preset: str, parameters: int, backbone) -> None:
    """Raises ValueError if the weights are not finite, or another model's than the one that all is checked for."""
    received = f"Received: preset={preset!r}"
    if backbone.count_params() != parameters:
        raise ValueError(
            f"The preset's config.json describes a model of {parameters:,} parameters, and its task.json one of "
            f"{backbone.count_params():,}. {received}"
        )
    for variable in backbone.variables:
        if keras.backend.is_float_dtype(variable.dtype) and not _is_finite(variable.value):
            raise ValueError(f"The preset's weights are not finite: it is broken. {received}, {variable.path}")


@jax.jit
def _is_finite(x):
    return jnp.isfinite(x).all()
