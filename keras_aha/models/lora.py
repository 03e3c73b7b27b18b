"""LoRA adapters (arXiv:2106.09685) of a policy: off for the reference, merged for a rollout, saved and loaded.

If only adapters are trained, which `freeze_base` sees to, the reference is the policy itself in `adapters_off`: the
same variables, traced into the same jit, and no second model. A rollout multiplies the adapters into float32 kernels
once, by `adapted_values`, instead of at every decode step.

Beside other kernels they stay adapters, as in training, and cost two thin products a layer: see `adapters_beside`.
"""

import contextlib

from keras_aha.files import local_path
from keras_aha.models.adapters_beside import adapters_beside, is_beside, scale
from keras_aha.models.internals import embeddings_variable, flatten_layers, kernel_variable

import h5py
import keras
import numpy as np
from keras import layers, ops

ADAPTERS = "adapters.lora.h5"  # the file in a run's folder

# The layers that can carry adapters in Keras and that a transformer is made of (convolutions are left out).
_KERNEL_LAYERS = (layers.Dense, layers.EinsumDense)
_ADAPTABLE_LAYERS = (*_KERNEL_LAYERS, layers.Embedding)


def has_adapters(layer) -> bool:
    """Whether `layer` or one of its sublayers carries adapters, be they on or off."""
    return bool(adapted_layers(layer))


def adapted_layers(layer) -> list:
    """The sublayers of `layer`, itself included, that carry adapters, be they on or off."""
    return [
        sublayer
        for sublayer in flatten_layers(layer)
        if isinstance(sublayer, _ADAPTABLE_LAYERS) and sublayer.built and sublayer.lora_rank
    ]


def freeze_base(layer) -> None:
    """If `layer` or one of its sublayers carries adapters, they alone are trained from now on.

    Keras's `enable_lora` leaves the bias of an adapted layer trainable. Trained, it would be in the reference too, and
    in no file of adapters.
    """
    adapters = {id(factor) for adapted in adapted_layers(layer) for factor in _factors(adapted)[1:]}
    for variable in layer.trainable_variables if adapters else ():
        variable.trainable = id(variable) in adapters


@contextlib.contextmanager
def adapters_off(layer):
    """Switches the adapters of a layer and of its sublayers off, and when the block is left back to what they were.

    Keras reads the switch when the layer is called, so inside `jax.jit` it acts while tracing: a function that is
    traced in the block never has adapters in its program. Blocks may be nested. The layer is yielded.
    """
    with _switched(layer, lambda _: False):
        yield layer


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


def merged_kernels(model) -> list[tuple]:
    """Multiplies the adapters, on or off, into the kernels: W + (alpha / rank) · A B.

    Current values are read, those of an enclosing `keras.StatelessScope` too, so it works inside `jax.jit`.

    Returns:
        (variable, array) pairs: the `keras.Variable` of each adapted kernel that is not quantized, and the merged
        kernel of the same shape in float32, which another dtype would round.
    """
    return [_merged_kernel(layer) for layer in adapted_layers(model) if layer.quantization_mode is None]


def adapted_values(model) -> list[tuple]:
    """What a rollout computes with in place of the adapters, on or off: merged kernels, or adapters beside a kernel.

    Returns:
        (variable, array) pairs for `using_merged`: of kernels in their dtype, and of adapters that stay beside one, in
        the dtype that the layer computes in, so that they are cast once and not at each token.
    """
    pairs = []
    for layer in adapted_layers(model):
        kernel, *factors = _factors(layer)
        if is_beside(layer):
            pairs += [(factor, ops.cast(factor, layer.compute_dtype)) for factor in factors]
        else:
            pairs.append((kernel, ops.cast(_merged_kernel(layer)[1], kernel.dtype)))
    return pairs


@contextlib.contextmanager
def using_merged(layer, values):
    """Runs a layer on other values of its variables, (variable, array) pairs, among them those of `adapted_values`.

    In the block, adapters that are merged are off, and the others are on, beside their kernels.
    """
    adapted = adapted_layers(layer)
    with _switched(layer, is_beside), adapters_beside(adapted), keras.StatelessScope(state_mapping=values):
        yield


def merge(model) -> None:
    """Multiplies the adapters, which are on, into the kernels for good and makes them 0: it computes what it did.

    The sum is rounded once, to the kernel's dtype: in bfloat16 a small change of a kernel is lost. Quantized kernels
    and their adapters stay as they are.
    """
    for kernel, value in merged_kernels(model):
        kernel.assign(value)
    for layer in adapted_layers(model):
        if layer.quantization_mode is None:
            _, _, b = _factors(layer)
            b.assign(ops.zeros(b.shape, b.dtype))


def adapted_kernel(layer, kernel, a, b):
    """W + (alpha / rank) · A B of given arrays, as `layer` adds its adapters to its kernel."""
    return ops.add(kernel, scale(layer) * ops.matmul(a, b))


def _merged_kernel(layer):
    kernel, a, b = _factors(layer)
    return kernel, adapted_kernel(layer, kernel, a, b)


def _factors(layer):
    """The variables W, A and B of an adapted layer."""
    if isinstance(layer, _KERNEL_LAYERS):
        return kernel_variable(layer), layer.lora_kernel_a, layer.lora_kernel_b
    return embeddings_variable(layer), layer.lora_embeddings_a, layer.lora_embeddings_b


def save_adapters(backbone, path) -> None:
    """Saves the adapters, and nothing else, in a file that ends in ".lora.h5", by keras-hub's `save_lora_weights`.

    It raises ValueError if there are no adapters or the path ends otherwise.
    """
    _check_has_adapters(backbone)
    backbone.save_lora_weights(str(local_path(path)))


def load_adapters(backbone, path) -> None:
    """Loads what `save_adapters` saved into the adapters of a `keras_hub.models.Backbone`, see `check_adapters`."""
    check_adapters(backbone, path)
    backbone.load_lora_weights(str(local_path(path)))


def check_adapters(backbone, path) -> None:
    """Checks that a backbone has the adapters of a file: the rank and the layers of `enable_lora`, and their shapes.

    None of the backbone's values is needed, so it may be one of `abstract_backbone`.

    Raises:
        ValueError: if there are no adapters, or the file holds none, or those of another rank, of other layers
            (keras-hub would load the ones it finds and say nothing of the rest) or of another model, or values that
            are not finite.
    """
    _check_has_adapters(backbone)
    saved_rank, saved, are_finite = _read_file(path)
    own, rank = _shapes(backbone), adapted_layers(backbone)[0].lora_rank
    received = f"Received: path={str(path)!r}"
    if saved_rank != rank:
        raise ValueError(
            f"The file's adapters have another rank than the backbone's: set it to {saved_rank}. "
            f"{received}, which has rank={saved_rank}, and a backbone with rank={rank}"
        )
    if sorted(saved) != list(own):
        raise ValueError(
            "The file's adapters are not those of the backbone: call `enable_lora` with the `target_layer_names` of "
            f"the run that saved them. {received}, which adapts layers {sorted(saved)}, and a backbone that adapts "
            f"layers {list(own)}"
        )
    for i, shapes in own.items():
        if saved[i] != shapes:
            raise ValueError(
                "The file's adapters are those of another model: load them into the model they were trained with. "
                f"{received}, which has the shapes {saved[i]} in layer {i}, and a backbone that has {shapes}"
            )
    if not are_finite:
        raise ValueError(
            f"The file's adapters hold values that are not finite: the run that saved them broke. {received}"
        )


def _shapes(backbone) -> dict:
    """Number of each adapted layer → shapes of A and B; keras-hub counts the layers that have weights."""
    adapted = adapted_layers(backbone)
    numbered = enumerate(layer for layer in flatten_layers(backbone, include_self=False) if layer.weights)
    return {i: _pair(layer.lora_kernel_a, layer.lora_kernel_b) for i, layer in numbered if layer in adapted}


def _read_file(path) -> tuple[int, dict, bool]:
    """Rank, number of each adapted layer → shapes of A and B, and whether all values are finite."""
    file_path = local_path(path)
    try:
        with h5py.File(file_path, "r") as file:
            stored = file["lora"]
            rank = int(stored["vars/rank"][()])
            numbers = [name for name in stored if name.isdigit()]
            values = {int(n): [stored[n]["vars"][f"lora_kernel_{x}"][()] for x in "ab"] for n in numbers}
            shapes = {n: _pair(*factors) for n, factors in values.items()}
            are_finite = all(np.isfinite(value).all() for factors in values.values() for value in factors)
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError):  # h5py raises all of them
        raise ValueError(
            "The file holds no adapters of a keras-hub model: name a file that `save_adapters` wrote. "
            f"Received: path={str(path)!r}"
        ) from None
    return rank, shapes, are_finite


def _pair(a, b):
    return tuple(a.shape), tuple(b.shape)


def _check_has_adapters(backbone) -> None:
    if not has_adapters(backbone):
        raise ValueError(
            "The backbone has no adapters: call `backbone.enable_lora(rank, target_layer_names=…)` first. "
            f"Received: backbone={backbone.name}"
        )
