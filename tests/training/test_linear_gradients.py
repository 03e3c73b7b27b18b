from keras_aha.models import lora
from keras_aha.training.linear_gradients import linear_gradients

import jax
import keras
import numpy as np
import pytest

LINEARS = {
    "dense": (lambda dtype: keras.layers.Dense(5, "tanh", dtype=dtype), (2, 3)),
    "dense of sequences": (lambda dtype: keras.layers.Dense(5, use_bias=False, dtype=dtype), (2, 6, 3)),
    "query": (
        lambda dtype: keras.layers.EinsumDense("btd,ndh->btnh", (None, 2, 4), None, "nh", dtype=dtype),
        (2, 6, 3),
    ),
    "output": (lambda dtype: keras.layers.EinsumDense("btnh,nhd->btd", (None, 3), "gelu", dtype=dtype), (2, 6, 2, 4)),
    "ellipsis": (lambda dtype: keras.layers.EinsumDense("...x,xy->...y", 5, dtype=dtype), (2, 6, 3)),
}


@pytest.mark.parametrize("adapted", (False, True), ids=("kernel", "adapters"))
@pytest.mark.parametrize(
    "linear, dtype, tolerance",
    [(linear, "float32", 1e-5) for linear in LINEARS]
    + [("query", "bfloat16", 0.03), ("dense of sequences", "mixed_bfloat16", 0.03)],
)
def test_are_the_gradients(linear, adapted, dtype, tolerance):
    make, shape = LINEARS[linear]
    layer = make(dtype)
    inputs = jax.numpy.asarray(np.random.default_rng(1).normal(size=shape), layer.compute_dtype)
    layer(inputs)
    if adapted:
        layer.enable_lora(rank=2, lora_alpha=3.0)
    randomize(layer)
    expected = loss_and_gradients(layer, inputs)
    with linear_gradients(layer) as same:
        assert same is layer
        found = loss_and_gradients(layer, inputs)
    assert found[0] == expected[0] if dtype == "float32" else abs(found[0] - expected[0]) < 0.1  # of 60 outputs or more
    for gradient, wanted in zip(found[1], expected[1], strict=True):
        assert gradient.dtype == wanted.dtype and np.linalg.norm(wanted) > 0.1
        assert np.linalg.norm(gradient - wanted) < tolerance * np.linalg.norm(wanted)


def test_adapters_need_no_gradient_of_a_kernel():
    """Forward and backward of inputs are left, of what were three products with the kernel."""
    layer, inputs = keras.layers.Dense(64, use_bias=False), np.ones((512, 64), "float32")
    layer(inputs)
    layer.enable_lora(rank=1)
    of_keras = flops(layer, inputs)
    with linear_gradients(layer):
        assert flops(layer, inputs) < 0.75 * of_keras
    assert flops(layer, inputs) == of_keras


def test_the_gradient_of_a_kernel_is_one_product():
    layer, inputs = keras.layers.Dense(64, use_bias=False), np.ones((512, 64), "float32")
    layer(inputs)

    def transposed():
        return str(jax.make_jaxpr(lambda x: loss_and_gradients(layer, x)[1][1])(inputs)).count("transpose[")

    of_keras = transposed()
    with linear_gradients(layer):
        assert transposed() == of_keras - 1


def test_what_is_not_trained_is_left_alone():
    model = keras.Sequential([keras.layers.Dense(4) for _ in range(5)])
    model(np.ones((1, 3), "float32"))
    trained, adapted, off, frozen, quantized = model.layers
    adapted.enable_lora(1)
    off.enable_lora(1)
    frozen.trainable = False
    quantized.quantize("int8")
    with lora.adapters_off(off), linear_gradients(model):
        changed = [layer for layer in model.layers if "call" in vars(layer)]
    assert changed == [trained, adapted]
    with pytest.raises(RuntimeError), linear_gradients(model):
        raise RuntimeError
    assert not any("call" in vars(layer) for layer in model.layers)


def randomize(layer):
    rng = np.random.default_rng(0)
    for variable in layer.trainable_variables:
        variable.assign(rng.normal(0, 0.3, variable.shape))


def loss_and_gradients(layer, inputs):
    """Of a loss that weighs every output differently, by the inputs and by all that is trained."""
    variables = layer.trainable_variables

    def loss(inputs, values):
        outputs = layer.stateless_call(values, layer.non_trainable_variables, inputs)[0]
        return (outputs * np.cos(np.arange(outputs.size)).reshape(outputs.shape)).sum()

    value, (by_inputs, by_values) = jax.value_and_grad(loss, (0, 1))(inputs, [v.value for v in variables])
    return value, [by_inputs, *by_values]


def flops(layer, inputs):
    return jax.jit(lambda x: loss_and_gradients(layer, x)).lower(inputs).compile().cost_analysis()["flops"]
