"""Adapters beside a kernel that is not float32: x · W + s (x A) B, added in float32 and rounded once.

Keras computes x · bf16(W + s A B). A pretrained W lies on the bfloat16 grid, so s A B is lost to the bit while it is
under half of a unit in the last place, which takes dozens of updates at usual learning rates. Added to a product that
is rounded already, x A B would be lost in the same way: so the sum is float32.
"""

import contextlib
import functools

from keras_aha.models.internals import kernel_variable, replaced_calls

import jax.numpy as jnp
from keras import layers, ops


def scale(layer) -> float:
    """alpha / rank of an adapted layer."""
    return layer.lora_alpha / layer.lora_rank


def is_beside(layer) -> bool:
    """Whether the adapters of an adapted layer stay beside its kernel in a rollout, and are not merged into it.

    A quantized kernel cannot take them up without being quantized anew; Keras keeps them beside it. One that is
    multiplied in bfloat16 or float16 would round them away.
    """
    return layer.quantization_mode is not None or _is_rounded(layer)


@contextlib.contextmanager
def adapters_beside(adapted_layers):
    """Keeps adapters of float kernels that `is_beside` names beside them, where Keras adds them to the kernel.

    Args:
        adapted_layers: `Dense` and `EinsumDense` layers with adapters, to be called in the block.
    """
    rounded = [layer for layer in adapted_layers if layer.quantization_mode is None and _is_rounded(layer)]
    with replaced_calls(rounded, lambda layer, call: functools.partial(_call, layer, call)):
        yield


def beside(layer, x, kernel, a, b):
    """x · W + s (x A) B of given arrays, computed and given in the dtype of x, but for the sum, which is float32."""
    kernel, a, b = kernel.astype(x.dtype), (scale(layer) * a).astype(x.dtype), b.astype(x.dtype)
    change = jnp.matmul(multiply(layer, x, a), b)  # rounded by itself, which takes half the memory
    return (multiply(layer, x, kernel, "float32") + change).astype(x.dtype)


def multiply(layer, x, kernel, dtype=None):
    """x · kernel as `layer` multiplies, accumulated in float32 and given in `dtype`, by default x's."""
    if isinstance(layer, layers.Dense):
        return jnp.matmul(x, kernel, preferred_element_type=dtype)
    return jnp.einsum(layer.equation, x, kernel, preferred_element_type=dtype)


def _is_rounded(layer) -> bool:
    return isinstance(layer, (layers.Dense, layers.EinsumDense)) and layer.compute_dtype != "float32"


def _call(layer, call, inputs, training=None):
    if not layer.lora_enabled:
        return call(inputs)
    weights = kernel_variable(layer), layer.lora_kernel_a, layer.lora_kernel_b
    outputs = beside(layer, *map(ops.convert_to_tensor, (inputs, *weights)))
    outputs = outputs if layer.bias is None else ops.add(outputs, layer.bias)
    return outputs if layer.activation is None else layer.activation(outputs)
