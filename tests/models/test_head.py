"""Logits of bfloat16 models in float32, by an oracle in float64 on the same hidden states."""

import re

from keras_aha.models.head import float32_logits
from keras_aha.models.internals import embeddings_variable, without_values
from keras_aha.planner.topology import find_topology

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

WIDTH, VOCABULARY, TOKENS = 64, 500, 200
LAYERS = {
    "gemma": {},
    "gemma 2": {"logit_soft_cap": 30.0},
    "untied": {"tie_weights": False},
    "int8": {"logit_soft_cap": 30.0},
    "untied int8": {"tie_weights": False},
}


@pytest.fixture(scope="module", params=LAYERS)
def head(request):
    """A layer, hidden states, and its table in float64, with logits of up to about 30."""
    layer = keras.layers.ReversibleEmbedding(VOCABULARY, WIDTH, dtype="bfloat16", **LAYERS[request.param])
    layer.build()
    rng = np.random.default_rng(0)
    for variable in layer.variables:
        variable.assign(rng.normal(0, 1, variable.shape))
    if "int8" in request.param:
        layer.quantize(config=keras.quantizers.Int8QuantizationConfig(activation_quantizer=None))
    hidden = jnp.asarray(rng.normal(0, 1, (TOKENS, WIDTH)), "bfloat16")
    scale = 10 / np.std(np.asarray(layer(hidden, reverse=True), "float64"))
    return layer, (hidden * scale).astype("bfloat16"), whole_table(layer)


def whole_table(layer):
    """`(V, D)` in float64."""
    tables = [np.asarray(v.value).astype("float64") for v in layer.variables]
    if layer.quantization_mode is None:
        return tables[0] if layer.tie_weights else tables[1].T
    return tables[0] / tables[1][:, None] if layer.tie_weights else (tables[2] / tables[3]).T


def oracle(layer, hidden, table):
    """Log-probs `(T, V)`, and the gradient of each token's most likely log-prob to its hidden state, in float64."""
    logits = np.asarray(hidden, "float64") @ table.T
    cap = layer.logit_soft_cap
    capped = logits if cap is None else cap * np.tanh(logits / cap)
    log_probs = capped - capped.max(-1, keepdims=True)
    log_probs -= np.log(np.exp(log_probs).sum(-1, keepdims=True))
    by_capped = np.eye(VOCABULARY)[log_probs.argmax(-1)] - np.exp(log_probs)
    return log_probs, (by_capped * (1 if cap is None else 1 - (capped / cap) ** 2)) @ table


@pytest.mark.parametrize("excess_precision", (True, False))
def test_no_logit_is_rounded(head, excess_precision):
    layer, hidden, table = head
    expected, by_hidden = oracle(layer, hidden, table)
    assert 20 < np.ptp(expected)

    def best(logits_of):
        return lambda hidden: jax.nn.log_softmax(logits_of(hidden).astype("float32")).max(-1).sum()

    def run(function):
        return np.asarray(jax.jit(function, compiler_options={"xla_allow_excess_precision": excess_precision})(hidden))

    log_probs = run(lambda hidden: jax.nn.log_softmax(float32_logits(layer, hidden)))
    assert log_probs.dtype == "float32" and np.abs(log_probs - expected).max() < 1e-3  # nats
    if layer.logit_soft_cap and not excess_precision:  # else XLA leaves the rounding out on a CPU, unlike on a TPU
        of_keras = run(lambda hidden: jax.nn.log_softmax(layer(hidden, reverse=True).astype("float32")))
        assert np.abs(of_keras - expected).max() > 0.03

    gradient = run(jax.grad(best(lambda hidden: float32_logits(layer, hidden))))
    assert gradient.dtype == hidden.dtype
    assert np.linalg.norm(gradient - by_hidden) < 0.01 * np.linalg.norm(by_hidden)


def test_a_head_in_4_bits_computes_by_itself():
    layer = keras.layers.ReversibleEmbedding(VOCABULARY, WIDTH, logit_soft_cap=5.0)
    layer.build()
    layer.quantize("int4")
    hidden = jnp.asarray(np.random.default_rng(0).normal(size=(3, WIDTH)), "float32")
    np.testing.assert_array_equal(float32_logits(layer, hidden), layer(hidden, reverse=True))


def test_a_table_that_is_trained_has_a_gradient():
    layer = keras.layers.ReversibleEmbedding(VOCABULARY, WIDTH, logit_soft_cap=5.0)
    layer.build()
    hidden = np.random.default_rng(0).normal(size=(2, 3, WIDTH)).astype("float32")

    def gradients(logits_of):
        def loss(table, hidden):
            with keras.StatelessScope([(layer.embeddings, table)]):
                return jnp.sum(logits_of(hidden) ** 2)

        return jax.grad(loss, (0, 1))(layer.embeddings.value, hidden)

    found = gradients(lambda hidden: float32_logits(layer, hidden))
    for own, wanted in zip(found, gradients(lambda hidden: layer(hidden, reverse=True)), strict=True):
        np.testing.assert_allclose(own, wanted, rtol=1e-4, atol=1e-4)


def test_a_tpus_program_has_no_float32_copy_of_the_table():
    """The shapes of Gemma2-2B; the product of the logits and that of the gradient come out in float32."""
    pytest.importorskip("libtpu")
    layer = keras.layers.ReversibleEmbedding(256_000, 2304, dtype="bfloat16", logit_soft_cap=30.0)
    with without_values():
        layer.build()
    sharding = SingleDeviceSharding(find_topology("v5e-1").devices[0])
    table, hidden = (jax.ShapeDtypeStruct(s, "bfloat16", sharding=sharding) for s in ((256_000, 2304), (64, 2304)))

    @jax.jit
    def gradient(table, hidden):
        def loss(hidden):
            with keras.StatelessScope([(embeddings_variable(layer), table)]):
                return jax.nn.log_softmax(float32_logits(layer, hidden)).max(-1).sum()

        return jax.grad(loss)(hidden)

    program = gradient.lower(table, hidden).compile().as_text()
    assert "f32[256000,2304]" not in program and "f32[2304,256000]" not in program
    products = set(re.findall(r"= (\w+\[[\d,]+\])\S* convolution", program))
    assert products == {"f32[64,256000]", "f32[64,2304]"}
