"""Flops against counts by hand and against XLA's own, peaks against chips' data, memory against the system's."""

from keras_aha.distribution.devices import memory_gb, peak_flops
from keras_aha.models import lora
from keras_aha.models.flops import forward_flops, update_flops

import jax
import jax.numpy as jnp
import keras
import keras_hub
import numpy as np
import pytest

VOCABULARY = 256
TINY = dict(
    vocabulary_size=VOCABULARY,
    num_layers=2,
    num_query_heads=2,
    num_key_value_heads=1,
    hidden_dim=16,
    intermediate_dim=32,  # gate and up together
    head_dim=8,
)
KERNELS = 2 * (2 * 16 * 8 + 16 * 8 + 16 * 8 + 2 * 8 * 16 + 3 * 16 * 16)
ALL_LINEAR = ["query", "key", "value", "attention_output", "ffw_gating", "ffw_gating_2", "ffw_linear"]
# Rows of 3 and 5 tokens, 2 and 4 of them completions: 8 tokens, 1+2+3 + 1+2+3+4+5 pairs, 6 predictions.
LENGTHS, COMPLETIONS = [3, 5], [2, 4]
TOKENS, PAIRS, PREDICTIONS = 8, 21, 6
PRODUCTS = KERNELS * TOKENS + 16 * VOCABULARY * PREDICTIONS
ATTENTION = 2 * 2 * 16 * PAIRS  # layers × (scores and values) × all heads' features
EMBEDDED = dict(
    vocabulary_size=183,
    num_layers=1,
    num_query_heads=4,
    num_key_value_heads=1,
    hidden_dim=128,
    intermediate_dim=512,
    head_dim=32,
)
MIDDLE = dict(
    vocabulary_size=4096,
    num_layers=1,
    num_query_heads=8,
    num_key_value_heads=4,
    hidden_dim=512,
    intermediate_dim=4096,
    head_dim=64,
)


def build(kind, rank=0, target=ALL_LINEAR, **shape):
    """A backbone whose variables have a shape and no value, which takes no time."""
    with keras.StatelessScope(initialize_variables=False):
        backbone = kind(**shape)
        if rank:
            backbone.enable_lora(rank, target_layer_names=target)
    return backbone


def gemma(rank=0, **settings):
    return build(keras_hub.models.GemmaBackbone, rank, **TINY, **settings)


# === By hand ===


def test_forward():
    backbone = gemma()
    assert forward_flops(backbone, LENGTHS, COMPLETIONS) == 2 * (PRODUCTS + ATTENTION) == 100_992


def test_an_update_of_every_weight_is_three_forwards():
    backbone = gemma()
    assert update_flops(backbone, LENGTHS, COMPLETIONS) == 3 * forward_flops(backbone, LENGTHS, COMPLETIONS)


def test_adapters():
    """x·A takes the kernel's inputs × rank, and what follows rank × the kernel's outputs: here 16 or 8."""
    backbone = gemma(rank=3)
    query, key, value, output = 2 * 16 * 3 + 3 * 16, 16 * 3 + 3 * 8, 16 * 3 + 3 * 8, 16 * 3 + 3 * 16
    adapters = 2 * (query + key + value + output + 3 * (16 * 3 + 3 * 16)) * TOKENS
    assert forward_flops(backbone, LENGTHS, COMPLETIONS) == 2 * (PRODUCTS + ATTENTION + adapters)
    assert update_flops(backbone, LENGTHS, COMPLETIONS) == 2 * (2 * PRODUCTS + 3 * ATTENTION + 3 * adapters)
    with lora.adapters_off(backbone):
        assert forward_flops(backbone, LENGTHS, COMPLETIONS) == 2 * (PRODUCTS + ATTENTION)


def test_layers_without_adapters_are_frozen_too():
    backbone = gemma(rank=3, target=["query"])
    adapters = 2 * (2 * 16 * 3 + 3 * 16) * TOKENS
    assert update_flops(backbone, LENGTHS, COMPLETIONS) == 2 * (2 * PRODUCTS + 3 * ATTENTION + 3 * adapters)


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_quantized_base_counts_as_before(mode):
    paths = [layer.path for layer in gemma()._flatten_layers() if isinstance(layer, keras.layers.EinsumDense)]
    policies = dict.fromkeys(paths, keras.dtype_policies.QuantizedDTypePolicy(mode, "bfloat16"))
    quantized = gemma(rank=3, dtype=keras.dtype_policies.DTypePolicyMap("bfloat16", policies))
    assert quantized.transformer_layers[0].gating_ffw.quantization_mode == mode
    plain = gemma(rank=3)
    assert forward_flops(quantized, LENGTHS, COMPLETIONS) == forward_flops(plain, LENGTHS, COMPLETIONS)
    assert update_flops(quantized, LENGTHS, COMPLETIONS) == update_flops(plain, LENGTHS, COMPLETIONS)


def test_dense_layers_and_untied_embeddings():
    """Of a Llama, whose gate, up and down are of 32, and which has a second matrix for unembedding."""
    backbone = build(
        keras_hub.models.LlamaBackbone,
        vocabulary_size=50,
        num_layers=1,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=16,
        intermediate_dim=32,
        tie_word_embeddings=False,
    )
    kernels = 16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 32
    expected = 2 * (kernels * TOKENS + 2 * 16 * PAIRS + 16 * 50 * PREDICTIONS)
    assert forward_flops(backbone, LENGTHS, COMPLETIONS) == expected
    backbone.token_embedding.trainable = False
    frozen = 2 * 16 * 50 * PREDICTIONS
    assert update_flops(backbone, LENGTHS, COMPLETIONS) == 3 * expected - frozen


# === By XLA ===


def xla_flops(backbone, rows, length, loss=False):
    """What XLA counts in the compiled forward pass to all logits, or in the gradient of their mean square."""
    trained = backbone.trainable_variables
    frozen = backbone.non_trainable_variables

    def logits(values, rest, token_ids):
        with keras.StatelessScope(list(zip([*trained, *frozen], [*values, *rest], strict=True))):
            hidden = backbone({"token_ids": token_ids, "padding_mask": jnp.ones_like(token_ids)})
            return backbone.token_embedding(hidden, reverse=True)

    function = jax.grad(lambda *inputs: jnp.mean(logits(*inputs) ** 2)) if loss else logits
    values = [[jax.ShapeDtypeStruct(v.shape, v.dtype) for v in variables] for variables in (trained, frozen)]
    token_ids = jax.ShapeDtypeStruct((rows, length), "int32")
    return jax.jit(function).lower(*values, token_ids).compile().cost_analysis()["flops"]


def hidden_by_the_mask(backbone, rows, length, passes):
    """Products of queries with keys and values to come, which these programs compute and then mask."""
    pairs = length * length - length * (length + 1) // 2
    return passes * 2 * 2 * backbone.num_layers * backbone.num_query_heads * backbone.head_dim * rows * pairs


@pytest.fixture(scope="module")
def middle():
    """A Gemma of a width at which matrix products are nearly all there is, as in a large one."""
    return build(keras_hub.models.GemmaBackbone, **MIDDLE)


def test_forward_of_a_tiny_model_is_what_xla_counts():
    """Of the embedded model's widths, where softmax, norms and activation functions are two in a hundred."""
    backbone = build(keras_hub.models.GemmaBackbone, **EMBEDDED)
    counted = xla_flops(backbone, 2, 64)
    expected = forward_flops(backbone, [64, 64], [64, 64]) + hidden_by_the_mask(backbone, 2, 64, passes=1)
    assert 1.0 < counted / expected < 1.03


def test_forward_is_what_xla_counts(middle):
    counted = xla_flops(middle, 2, 128)
    expected = forward_flops(middle, [128, 128], [128, 128]) + hidden_by_the_mask(middle, 2, 128, passes=1)
    assert 1.0 < counted / expected < 1.01


def test_forward_of_a_gemma_3_is_what_xla_counts():
    shape = MIDDLE | dict(image_size=None, vision_encoder=None, use_query_key_norm=True)
    backbone = build(keras_hub.models.Gemma3Backbone, **shape)
    counted = xla_flops(backbone, 2, 128)
    expected = forward_flops(backbone, [128, 128], [128, 128]) + hidden_by_the_mask(backbone, 2, 128, passes=1)
    assert 1.0 < counted / expected < 1.01


def test_an_update_is_what_xla_counts(middle):
    counted = xla_flops(middle, 2, 128, loss=True)
    expected = update_flops(middle, [128, 128], [128, 128]) + hidden_by_the_mask(middle, 2, 128, passes=3)
    assert 1.0 < counted / expected < 1.01


# === Devices ===


@pytest.mark.parametrize(
    "device_kind, dtype, tflops",
    [
        ("TPU v3", "bfloat16", 61.5),  # a core
        ("TPU v5 lite", "bfloat16", 197),
        ("TPU v5 lite", "float32", 197),
        ("TPU v6 lite", "bfloat16", 918),
        ("TPU7x", "bfloat16", 1153.5),  # half a chip
        ("NVIDIA H200", "bfloat16", 989.5),
        ("NVIDIA H100 PCIe", "bfloat16", 756.5),
        ("NVIDIA A100-SXM4-40GB", "float32", 156),
        ("Tesla T4", "float16", 65),
    ],
)
def test_peaks(device_kind, dtype, tflops):
    assert peak_flops(device_kind, dtype) == tflops * 1e12


@pytest.mark.parametrize(
    "device_kind, dtype",
    [("cpu", "float32"), ("Tesla T4", "bfloat16"), ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bfloat16")],
)
def test_unknown_peaks(device_kind, dtype):
    assert peak_flops(device_kind, dtype) is None


def test_memory_of_the_process_grows_with_what_it_holds():
    before = memory_gb()
    held = np.ones(25_000_000)  # 0.2 GB
    after = memory_gb()
    del held
    released = memory_gb()
    assert 0.15 < after["memory_gb"] - before["memory_gb"] < 0.25
    assert after["memory_gb"] - released["memory_gb"] > 0.15
    assert released["peak_memory_gb"] >= after["memory_gb"] - 0.01
