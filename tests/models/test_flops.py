"""Flops against counts by hand and against XLA's own."""

from keras_aha.models import lora
from keras_aha.models.flops import forward_flops, update_flops
from keras_aha.models.internals import without_values
from keras_aha.models.quantization import abstract_quantized

import jax
import jax.numpy as jnp
import keras
import keras_hub
import pytest
from tiny_models import ALL_LINEAR, SHAPES

VOCABULARY = 256
TINY = dict(**SHAPES["gemma"], vocabulary_size=VOCABULARY)  # its 32 are gate and up together
KERNELS = 2 * (2 * 16 * 8 + 16 * 8 + 16 * 8 + 2 * 8 * 16 + 3 * 16 * 16)
# Rows of 3 and 5 tokens, 2 and 4 of them completions: 8 tokens, 1+2+3 + 1+2+3+4+5 pairs, 6 predictions.
LENGTHS, COMPLETIONS = [3, 5], [2, 4]
TOKENS, PAIRS, PREDICTIONS = 8, 21, 6
PRODUCTS = KERNELS * TOKENS + 16 * VOCABULARY * PREDICTIONS
ATTENTION = 2 * 2 * 16 * PAIRS  # layers × (scores and values) × all heads' features
# Of a width at which matrix products are nearly all there is, as in a large one.
MIDDLE = dict(vocabulary_size=4096, num_layers=1, num_query_heads=8, num_key_value_heads=4, head_dim=64)
MIDDLE |= dict(hidden_dim=512, intermediate_dim=4096)


def build(kind, **shape):
    with without_values():
        return kind(**shape)


def gemma():
    return build(keras_hub.models.GemmaBackbone, **TINY)


# === By hand ===


def test_every_weight():
    backbone = gemma()
    assert forward_flops(backbone, LENGTHS, COMPLETIONS) == 2 * (PRODUCTS + ATTENTION) == 100_992
    assert update_flops(backbone, LENGTHS, COMPLETIONS) == 3 * 2 * (PRODUCTS + ATTENTION)


def test_a_prompt_that_rows_share_counts_once():
    """Rows of 3 and 5 tokens behind prompts of 1: of the second one, one token and its one pair."""
    backbone = gemma()
    shared = forward_flops(backbone, [3, 5], [2, 4], share=0.5)
    assert shared == 2 * (PRODUCTS + ATTENTION - KERNELS - ATTENTION // PAIRS)
    assert update_flops(backbone, [3, 5], [2, 4], share=[0.5, 0.5]) == 3 * shared


@pytest.mark.parametrize("mode", [None, "int8", "int4"])
def test_adapters(mode):
    """x·A takes the kernel's inputs × rank, and what follows rank × the kernel's outputs: here 16 or 8."""
    backbone = gemma() if mode is None else abstract_quantized(gemma(), mode)
    with without_values():
        backbone.enable_lora(3, target_layer_names=ALL_LINEAR)
    query, key, value, output = 2 * 16 * 3 + 3 * 16, 16 * 3 + 3 * 8, 16 * 3 + 3 * 8, 16 * 3 + 3 * 16
    adapters = 2 * (query + key + value + output + 3 * (16 * 3 + 3 * 16)) * TOKENS
    assert forward_flops(backbone, LENGTHS, COMPLETIONS) == 2 * (PRODUCTS + ATTENTION + adapters)
    assert update_flops(backbone, LENGTHS, COMPLETIONS) == 2 * (2 * PRODUCTS + 3 * ATTENTION + 3 * adapters)
    with lora.adapters_off(backbone):
        assert forward_flops(backbone, LENGTHS, COMPLETIONS) == 2 * (PRODUCTS + ATTENTION)


def test_layers_without_adapters_are_frozen_too():
    backbone, adapters = gemma(), 2 * (2 * 16 * 3 + 3 * 16) * TOKENS
    with without_values():
        backbone.enable_lora(3, target_layer_names=["query"])
    assert update_flops(backbone, LENGTHS, COMPLETIONS) == 2 * (2 * PRODUCTS + 3 * ATTENTION + 3 * adapters)


def test_dense_layers_and_untied_embeddings():
    """Of a Llama, whose gate, up and down are of 32, and which has a second matrix for unembedding."""
    shape = SHAPES["llama_3"] | dict(num_layers=1, vocabulary_size=50, tie_word_embeddings=False)
    backbone = build(keras_hub.models.LlamaBackbone, **shape)
    kernels = 16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 32
    expected = 2 * (kernels * TOKENS + 2 * 16 * PAIRS + 16 * 50 * PREDICTIONS)
    assert forward_flops(backbone, LENGTHS, COMPLETIONS) == expected
    backbone.token_embedding.trainable = False
    assert update_flops(backbone, LENGTHS, COMPLETIONS) == 3 * expected - 2 * 16 * 50 * PREDICTIONS


def test_queries_of_another_name():
    """SmolLM3 is a Llama 3 of the same shape."""
    llama = build(keras_hub.models.Llama3Backbone, **SHAPES["llama_3"], vocabulary_size=50)
    smol = build(keras_hub.models.SmolLM3Backbone, **SHAPES["smollm_3"], vocabulary_size=50)
    assert forward_flops(smol, LENGTHS, COMPLETIONS) == forward_flops(llama, LENGTHS, COMPLETIONS)


# === By XLA ===


def xla_flops(backbone, rows, length, is_update):
    """What XLA counts in the compiled forward pass to all logits, or in the gradient of their mean square."""
    trained, frozen = backbone.trainable_variables, backbone.non_trainable_variables

    def logits(values, rest, token_ids):
        with keras.StatelessScope(list(zip([*trained, *frozen], [*values, *rest], strict=True))):
            hidden = backbone({"token_ids": token_ids, "padding_mask": jnp.ones_like(token_ids)})
            return backbone.token_embedding(hidden, reverse=True)

    function = jax.grad(lambda *inputs: jnp.mean(logits(*inputs) ** 2)) if is_update else logits
    values = [[jax.ShapeDtypeStruct(v.shape, v.dtype) for v in variables] for variables in (trained, frozen)]
    token_ids = jax.ShapeDtypeStruct((rows, length), "int32")
    return jax.jit(function).lower(*values, token_ids).compile().cost_analysis()["flops"]


@pytest.mark.parametrize(
    "kind, settings, is_update", [("Gemma", {}, True), ("Gemma3", dict(image_size=None, vision_encoder=None), False)]
)
def test_xla_counts_the_same(kind, settings, is_update):
    backbone = build(getattr(keras_hub.models, f"{kind}Backbone"), **MIDDLE, **settings)
    count, passes = (update_flops, 3) if is_update else (forward_flops, 1)
    # These programs compute products of queries with keys and values to come, and then mask them.
    hidden = passes * 2 * 2 * backbone.num_query_heads * backbone.head_dim * 2 * (128 * 128 - 128 * 129 // 2)
    expected = count(backbone, [128, 128], [128, 128]) + hidden
    assert 1.0 < xla_flops(backbone, 2, 128, is_update) / expected < 1.01
