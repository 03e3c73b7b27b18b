"""Small changes of a bfloat16 kernel by its adapters are not rounded away, in training or in rollouts."""

from keras_aha.models import lora
from keras_aha.models.internals import kernel_variable
from keras_aha.training.grpo_model import GRPOModel
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


@pytest.mark.parametrize("name", ("gating_ffw", "gating_ffw_2", "ffw_linear"))
def test_feed_forward_layers_of_gemma_4_in_training(make_policy, name):
    """keras-hub's block multiplies by their kernels past the layers: there so small a change is no change at all."""
    shape = dict(num_layers=3, num_kv_shared_layers=1, dtype="bfloat16")
    model, rng = GRPOModel(make_policy("gemma_4", lora_rank=2, fresh_adapters=True, **shape)), np.random.default_rng(0)
    layers = [getattr(block, name) for block in model.policy.backbone.transformer_layers]
    for layer in layers:
        kernel_variable(layer).assign(rng.choice([-0.25, 0.25], layer.kernel.shape))
    rows = rng.integers(1, 180, (4, 12)).astype("int32"), np.ones((4, 12), "int32")
    before = model.log_probs(*rows, 6)
    for layer in layers:
        layer.lora_kernel_b.assign(rng.choice([-2e-4, 2e-4], layer.lora_kernel_b.shape))
        np.testing.assert_array_equal(layer.kernel, kernel_variable(layer).value)
    assert np.abs(model.log_probs(*rows, 6) - before).max() > 1e-3
