"""`linear_gradients`: gradients of linear layers, by the products that cost the least."""

import contextlib
import functools
import re

from keras_aha.models import lora
from keras_aha.models.adapters_beside import beside, is_beside, scale
from keras_aha.models.internals import flatten_layers, kernel_variable, replaced_calls

import jax
from keras import layers, ops


@contextlib.contextmanager
def linear_gradients(model):
    """Computes gradients of a model's trained kernels and adapters by other products than JAX; yields the model.

    A layer computes y = x · W, or with adapters y = x · (W + s A B), and if it computes in bfloat16 or float16
    y = x · W + s (x A) B, see `models.adapters_beside`. Let g be the gradient of y:

        kernel     ∂W = xᵀ g. JAX writes (gᵀ x)ᵀ, for which XLA on CPU first copies g, element by element.
        adapters   ∂A = s xᵀ (g Bᵀ) and ∂B = s (x A)ᵀ g, products with a thin matrix. JAX first computes the gradient of
                   W + s A B, which is as large as the kernel and costs as much as a forward pass.

    They are equal to rounding. The forward pass is that of the sampler, and in float32 Keras's to the bit. Nothing
    changes in layers with a frozen or a quantized kernel, or whose adapters are off, and in embeddings.

    The block replaces the `call` of the layers, which Keras calls while JAX traces. `distribution.fsdp.gathering` is
    entered inside this block and wraps the new `call`: it gathers the weights, and then this computes with them.
    """
    linears = [layer for layer in flatten_layers(model) if _is_trained_linear(layer)]
    with replaced_calls(linears, lambda layer, call: functools.partial(_call, layer)):
        yield model


def _is_trained_linear(layer):
    linear = isinstance(layer, (layers.Dense, layers.EinsumDense)) and layer.built
    return linear and not layer.quantization_mode and (layer.lora_enabled or kernel_variable(layer).trainable)


def _call(layer, inputs, training=None):
    """As `layer.call`, which it replaces."""
    if layer.lora_enabled:
        product, weights = _adapted_product(layer), (kernel_variable(layer), layer.lora_kernel_a, layer.lora_kernel_b)
    else:
        product, weights = _product_of(layer), (kernel_variable(layer),)
    outputs = product(*map(ops.convert_to_tensor, (inputs, *weights)))
    outputs = outputs if layer.bias is None else ops.add(outputs, layer.bias)
    return outputs if layer.activation is None else layer.activation(outputs)


def _adapted_product(layer):
    """The function (x, W, A, B) → y, with gradients of x, A and B."""
    product = _product_of(layer)

    def merged(x, kernel, a, b):
        return product(x, lora.adapted_kernel(layer, kernel, a, b))

    def adapters_alone(x, a, b):  # s (x A) B, whose gradients of A and B are those of the whole
        return _matmul(product(x, ops.cast(scale(layer) * a, x.dtype)), ops.cast(b, x.dtype))

    def two_products(x, kernel, a, b):
        return product(x, ops.cast(kernel, x.dtype)) + adapters_alone(x, a, b)

    whole, by_inputs = (functools.partial(beside, layer), two_products) if is_beside(layer) else (merged, merged)

    def backward(arguments, gradient):
        x, kernel, a, b = arguments
        _, to_inputs = jax.vjp(lambda x: by_inputs(x, kernel, a, b), x)
        _, to_adapters = jax.vjp(lambda a, b: adapters_alone(x, a, b), a, b)
        return *to_inputs(gradient), None, *to_adapters(gradient)

    return _with_backward(whole, backward)


def _product_of(layer):
    """The function (x, kernel) → x · kernel of the layer, with gradients of both."""
    if isinstance(layer, layers.Dense):
        return _matmul
    inputs, kernel, outputs = re.split(",|->", layer.equation)
    multiply = functools.partial(ops.einsum, layer.equation)
    return _product(multiply, functools.partial(ops.einsum, f"{inputs},{outputs}->{kernel}"))


def _product(multiply, to_kernel):
    """`multiply`, whose gradient g gives the kernel the gradient `to_kernel(x, g)`."""

    def backward(arguments, gradient):
        x, kernel = arguments
        _, to_inputs = jax.vjp(lambda x: multiply(x, kernel), x)
        return *to_inputs(gradient), to_kernel(x, gradient)

    return _with_backward(multiply, backward)


def _with_backward(function, backward):
    """`function`, whose gradients are `backward(arguments, gradient)`."""
    with_backward = jax.custom_vjp(function)
    with_backward.defvjp(lambda *arguments: (function(*arguments), arguments), backward)
    return with_backward


def _outer(x, gradient):
    """xᵀ g, over all rows."""
    rows = list(range(x.ndim - 1))
    return ops.tensordot(x, gradient, axes=(rows, rows))


_matmul = _product(ops.matmul, _outer)
