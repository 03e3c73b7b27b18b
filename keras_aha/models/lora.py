"""Adapters off: the reference policy. Adapters merged: the weights of a rollout. Adapters saved.

Where the adapters are all that is trained, which `Backbone.enable_lora` sees to, the reference is the policy itself
with its adapters switched off, so that no second model exists:

    with lora.adapters_off(policy):
        ref_log_probs = ...                        # the same variables, traced into the same jit

and a rollout multiplies the adapters into the kernels once, instead of at every decode step:

    merged = lora.merged_kernels(policy)           # new arrays for the adapted kernels only
    with lora.using_merged(policy, merged):
        ...

A quantized kernel cannot take up its adapters, which are small, without being quantized anew. There they stay beside
the kernel in rollouts too, as in training, at the cost of two thin products a layer.
"""

import contextlib
import os

from keras_aha.models.internals import (
    adapted_layer_numbers,
    adapter_rank,
    embeddings_variable,
    flatten_layers,
    kernel_variable,
)

import h5py
import keras
import numpy as np
from keras import layers, ops

ADAPTERS = "adapters.lora.h5"  # the file in a run's folder

# The layers that can carry adapters in Keras and that a transformer is made of (convolutions are left out).
_KERNEL_LAYERS = (layers.Dense, layers.EinsumDense)
_ADAPTABLE_LAYERS = (*_KERNEL_LAYERS, layers.Embedding)


def has_adapters(layer):
    """Whether `layer` or one of its sublayers carries LoRA adapters, be they switched on or off."""
    return bool(adapted_layers(layer))


def adapted_layers(layer) -> list:
    """The sublayers of `layer` that carry adapters, be they switched on or off."""
    return [
        sublayer
        for sublayer in flatten_layers(layer)
        if isinstance(sublayer, _ADAPTABLE_LAYERS) and sublayer.built and sublayer.lora_rank
    ]


def set_alpha(layer, alpha: float):
    """Multiplies the adapters of `layer` and of its sublayers by alpha / rank from now on.

    It is the `lora_alpha` of a Keras layer's `enable_lora`, which a keras-hub backbone's does not take.
    """
    for sublayer in adapted_layers(layer):
        sublayer.lora_alpha = alpha


@contextlib.contextmanager
def adapters_off(layer):
    """Switches the adapters of `layer` and of all its sublayers off, and back on when the block is left, however it is.

    Keras reads the switch when the layer is called, so inside `jax.jit` it acts while tracing: a function traced in the
    block has no adapters in its program, forever. Where there are no adapters nothing happens; blocks may be nested.

    Args:
        layer: a Keras layer or model, such as a `GemmaCausalLM` or its backbone.

    Yields:
        `layer`.
    """
    with _switched(layer, lambda _: False):
        yield layer


@contextlib.contextmanager
def using_merged(layer, values):
    """Runs `layer` on other values of its variables, those of `merged_kernels` among them.

    Adapters that are merged are off in the block, and those of quantized layers on, whatever they were outside of it.

    Args:
        layer: a Keras layer or model.
        values: (variable, array) pairs, as a `keras.StatelessScope` takes them.
    """
    with _switched(layer, _is_quantized), keras.StatelessScope(state_mapping=values):
        yield


def merged_kernels(model):
    """Multiplies the adapters into the kernels: W + (alpha / rank) · A B, as Keras itself does at every call.

    LoRA, arXiv:2106.09685, §4.1. Only adapted kernels that are not quantized are there, all others stay where they are.
    Current values are read, those of an enclosing `keras.StatelessScope` included, so it works inside `jax.jit` too.

    Args:
        model: a Keras layer or model, its adapters on or off.

    Returns:
        A list of (variable, array) pairs: the base kernel's `keras.Variable`, and the merged kernel, which has the
        variable's shape and dtype. To be used by `using_merged`, which sees to it that they are not added twice. Empty
        where there are no adapters.
    """
    return [_merged_kernel(layer) for layer in adapted_layers(model) if not _is_quantized(layer)]


def merge(model):
    """Multiplies the adapters into the kernels for good, and makes them 0, so that the model computes what it did.

    Quantized kernels and their adapters stay as they are.

    Args:
        model: a Keras layer or model, its adapters on.
    """
    for kernel, value in merged_kernels(model):
        kernel.assign(value)
    for layer in adapted_layers(model):
        if not _is_quantized(layer):
            b = layer.lora_kernel_b if isinstance(layer, _KERNEL_LAYERS) else layer.lora_embeddings_b
            b.assign(ops.zeros(b.shape, b.dtype))


def adapted_kernel(layer, kernel, a, b):
    """W + (alpha / rank) · A B of given arrays, as `layer` adds its adapters to its kernel."""
    return ops.add(kernel, scale(layer) * ops.matmul(a, b))


def scale(layer) -> float:
    """alpha / rank of an adapted layer."""
    return layer.lora_alpha / layer.lora_rank


def save_adapters(backbone, path):
    """Saves the adapters, and nothing else, by keras-hub's `save_lora_weights`.

    Args:
        backbone: a `keras_hub.models.Backbone`, after its `enable_lora`.
        path: of the file, ending in ".lora.h5".

    Raises:
        ValueError: if there are no adapters or the path ends otherwise.
    """
    _check_adapters(backbone)
    backbone.save_lora_weights(os.fspath(path))


def load_adapters(backbone, path):
    """Loads what `save_adapters` saved, by keras-hub's `load_lora_weights`.

    Args:
        backbone: a `keras_hub.models.Backbone` of the same architecture, after `enable_lora` with the rank and the
            layers it had when the adapters were saved.
        path: of the file.

    Raises:
        ValueError: what `check_adapters` raises.
    """
    check_adapters(backbone, path)
    backbone.load_lora_weights(os.fspath(path))


def check_adapters(backbone, path):
    """Checks that the adapters in a file are those that the backbone has; none of its values is needed.

    Args:
        backbone, path: as `load_adapters` takes them; also a backbone of `abstract_backbone`.

    Raises:
        ValueError: if there are no adapters, or the file holds none, or those of another rank, of other layers
            (keras-hub by itself would load the ones it finds and be silent about the rest) or of another model, or
            values that are not finite.
    """
    _check_adapters(backbone)
    rank, saved, finite = _read_file(path)
    received = f"Received: path={os.fspath(path)!r}"
    if rank != adapter_rank(backbone):
        raise ValueError(
            f"The file's adapters have another rank than the backbone's: set it to {rank}. "
            f"{received}, which has rank={rank}, and a backbone with rank={adapter_rank(backbone)}"
        )
    every = [layer for layer in flatten_layers(backbone, include_self=False) if layer.weights]  # as keras-hub counts
    adapted = {i: every[i] for i in adapted_layer_numbers(backbone)}
    if sorted(saved) != list(adapted):
        raise ValueError(
            "The file's adapters are not those of the backbone: call `enable_lora` with the `target_layer_names` of "
            f"the run that saved them. {received}, which adapts layers {sorted(saved)}, and a backbone that adapts "
            f"layers {list(adapted)}"
        )
    for i, layer in adapted.items():
        shapes = tuple(layer.lora_kernel_a.shape), tuple(layer.lora_kernel_b.shape)
        if saved[i] != shapes:
            raise ValueError(
                f"The file's adapters are those of another model. {received}, which has the shapes {saved[i]} where "
                f"those of {layer.path} have {shapes}"
            )
    if not finite:
        raise ValueError(
            f"The file's adapters hold values that are not finite: the run that saved them broke. {received}"
        )


def _is_quantized(layer):
    return layer.quantization_mode is not None


@contextlib.contextmanager
def _switched(layer, is_on):
    """Switches the adapters of each adapted layer as `is_on(layer)` says, and afterwards back to what they were."""
    before = [(sublayer, sublayer.lora_enabled) for sublayer in adapted_layers(layer)]
    for sublayer, _ in before:
        sublayer.lora_enabled = is_on(sublayer)
    try:
        yield
    finally:
        for sublayer, was_on in before:
            sublayer.lora_enabled = was_on


def _merged_kernel(layer):
    if isinstance(layer, _KERNEL_LAYERS):
        kernel, a, b = kernel_variable(layer), layer.lora_kernel_a, layer.lora_kernel_b
    else:
        kernel, a, b = embeddings_variable(layer), layer.lora_embeddings_a, layer.lora_embeddings_b
    return kernel, ops.cast(adapted_kernel(layer, kernel, a, b), kernel.dtype)


def _read_file(path):
    """Rank, number of each adapted layer → shapes of A and B, and whether all values are finite."""
    try:
        with h5py.File(path, "r") as file:
            stored = file["lora"]
            rank = int(stored["vars/rank"][()])
            numbers = [name for name in stored if name.isdigit()]
            values = {int(n): [stored[n]["vars"][f"lora_kernel_{x}"][()] for x in "ab"] for n in numbers}
            shapes = {n: tuple(value.shape for value in pair) for n, pair in values.items()}
            finite = all(np.isfinite(value).all() for pair in values.values() for value in pair)
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError):  # as h5py meets what is broken
        raise ValueError(
            f"The file holds no adapters of a keras-hub model. Received: path={os.fspath(path)!r}"
        ) from None
    return rank, shapes, finite


def _check_adapters(backbone):
    if not has_adapters(backbone):
        raise ValueError(
            "The backbone has no adapters: call `backbone.enable_lora(rank, target_layer_names=…)` first. "
            f"Received: backbone={backbone.name}"
        )
