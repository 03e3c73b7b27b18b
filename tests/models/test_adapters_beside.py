"""Small changes of a bfloat16 kernel by its adapters are not rounded away, in training or in rollouts."""

from keras_aha.models import lora
from keras_aha.training.linear_gradients import linear_gradients

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

ROWS, INPUTS, OUTPUTS = 64, 512, 1024
RATES = (1e-5, 1e-4, 1e-3)
UPDATES = (1, 3, 10, 30)


def layer_and_inputs(dtype, mode=None):
    """A kernel on the bfloat16 grid, of the scale of a Gemma's."""
    layer = keras.layers.Dense(OUTPUTS, use_bias=False, dtype=dtype)
    layer.build((None, INPUTS))
    rng = np.random.default_rng(0)
    layer.kernel.assign(jnp.asarray(rng.normal(0, 0.02, (INPUTS, OUTPUTS)), "bfloat16").astype("float32"))
    inputs = jnp.asarray(rng.normal(size=(ROWS, INPUTS)), "bfloat16").astype(layer.compute_dtype)
    if mode is not None:
        layer.quantize(config=keras.quantizers.Int8QuantizationConfig(activation_quantizer=None))
    keras.utils.set_random_seed(0)
    layer.enable_lora(rank=16)
    return layer, inputs, rng.normal(size=(ROWS, OUTPUTS))


def progress(dtype, rate, excess_precision, mode=None):
    """How much smaller the squared error is after `UPDATES`, by the trained layer and by that of a rollout."""
    layer, inputs, targets = layer_and_inputs(dtype, mode)
    options = {"xla_allow_excess_precision": excess_precision}

    def error(factors):
        outputs = layer.stateless_call(factors, layer.non_trainable_variables, inputs)[0]
        return jnp.mean((outputs.astype("float32") - targets) ** 2)

    def rollout_error(factors):
        with keras.StatelessScope(list(zip(layer.trainable_variables, factors, strict=True))):
            values = lora.adapted_values(layer)
        with lora.using_merged(layer, values):
            return jnp.mean((layer(inputs).astype("float32") - targets) ** 2)

    with linear_gradients(layer):
        trained = jax.jit(jax.value_and_grad(error), compiler_options=options)
        factors = [variable.value for variable in layer.trainable_variables]
        trained(factors)
    rollout = jax.jit(rollout_error, compiler_options=options)
    optimizer = keras.optimizers.Adam(rate)
    optimizer.build(layer.trainable_variables)
    state, errors = [variable.value for variable in optimizer.variables], []
    for update in range(max(UPDATES) + 1):
        value, gradients = trained(factors)
        if update in (0, *UPDATES):
            errors.append((float(value), float(rollout(factors))))
        factors, state = optimizer.stateless_apply(state, gradients, factors)
    return errors[0][0] - np.array(errors[1:])


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("dtype", ("bfloat16", "mixed_bfloat16"))
def test_progress_is_that_of_float32(dtype, rate):
    expected = progress("float32", rate, True)
    for excess_precision in (True, False):
        found = progress(dtype, rate, excess_precision)
        np.testing.assert_allclose(found, expected, rtol=0.1)


def test_progress_beside_a_quantized_kernel():
    """Keras's own sum, which is rounded once as long as XLA may keep more than is asked for, as it does by default."""
    expected = progress("float32", 1e-4, True, "int8")
    np.testing.assert_allclose(progress("bfloat16", 1e-4, True, "int8"), expected, rtol=0.1)
