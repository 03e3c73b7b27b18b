"""The gradients of linear layers, by the products that cost the least."""

import contextlib
import functools
import re

from keras_aha.models import lora
from keras_aha.models.internals import flatten_layers, kernel_variable, replaced_calls

import jax
from keras import layers, ops


@contextlib.contextmanager
def linear_gradients(model):
    """Takes the gradients of trained kernels and of adapters by other products than JAX would.

    Of y = x · W, with a gradient g of y:

    trained kernel   ∂W = xᵀ g. JAX writes (gᵀ x)ᵀ, and XLA on CPU then lays g out anew, element by element.
    adapters         y = x · (W + s A B) has ∂A = s xᵀ (g Bᵀ) and ∂B = s (x A)ᵀ g, products with a thin matrix. JAX
                     takes the gradient of the sum first, which is as large as the kernel and costs a forward pass.

    They are the same numbers to rounding. The forward pass stays Keras's to the bit, so that it is the very policy that
    was sampled from.

    Keras calls a layer's `call` while tracing, so inside `jax.jit` this acts on what is traced in the block.

    Args:
        model: a Keras layer or model. Frozen or quantized kernels, embeddings and adapters that are off are left alone.

    Yields:
        `model`.
    """
    linears = [layer for layer in flatten_layers(model) if _is_trained_linear(layer)]
    with replaced_calls(linears, lambda layer, call: functools.partial(_call, layer)):
        yield model


def _is_trained_linear(layer):
    linear = isinstance(layer, (layers.Dense, layers.EinsumDense)) and layer.built
    return linear and not layer.quantization_mode and (layer.lora_enabled or kernel_variable(layer).trainable)


def _call(layer, inputs, training=None):
    """What `layer.call` computes."""
    if layer.lora_enabled:
        product, weights = _adapted_product(layer), (kernel_variable(layer), layer.lora_kernel_a, layer.lora_kernel_b)
    else:
        product, weights = _product_of(layer), (kernel_variable(layer),)
    outputs = product(*map(ops.convert_to_tensor, (inputs, *weights)))
    outputs = outputs if layer.bias is None else ops.add(outputs, layer.bias)
    return outputs if layer.activation is None else layer.activation(outputs)


def _adapted_product(layer):
    """(x, W, A, B) → x · (W + s A B), with gradients of all but W."""
    dtype, product = layer.compute_dtype, _product_of(layer)

    def by_sum(x, kernel, a, b):
        return product(x, ops.cast(lora.adapted_kernel(layer, kernel, a, b), dtype))

    def by_adapters(x, a, b):
        return _matmul(product(x, ops.cast(lora.scale(layer) * a, dtype)), ops.cast(b, dtype))

    def backward(arguments, gradient):
        x, kernel, a, b = arguments
        _, to_inputs = jax.vjp(lambda x: by_sum(x, kernel, a, b), x)
        _, to_adapters = jax.vjp(lambda a, b: by_adapters(x, a, b), a, b)
        return *to_inputs(gradient), None, *to_adapters(gradient)

    function = jax.custom_vjp(by_sum)
    function.defvjp(lambda *arguments: (by_sum(*arguments), arguments), backward)
    return function


def _product_of(layer):
    """(x, kernel) → x · kernel as the layer has it."""
    if isinstance(layer, layers.Dense):
        return _matmul
    inputs, kernel, outputs = re.split(",|->", layer.equation)
    multiply = functools.partial(ops.einsum, layer.equation)
    return _product(multiply, functools.partial(ops.einsum, f"{inputs},{outputs}->{kernel}"))


def _product(multiply, to_kernel):
    """`multiply(x, kernel)`, whose gradient g gives the kernel `to_kernel(x, g)`."""

    def backward(arguments, gradient):
        x, kernel = arguments
        _, to_inputs = jax.vjp(lambda x: multiply(x, kernel), x)
        return *to_inputs(gradient), to_kernel(x, gradient)

    function = jax.custom_vjp(multiply)
    function.defvjp(lambda *arguments: (multiply(*arguments), arguments), backward)
    return function


def _outer(x, gradient):
    rows = list(range(x.ndim - 1))
    return ops.tensordot(x, gradient, axes=(rows, rows))


_matmul = _product(ops.matmul, _outer)
