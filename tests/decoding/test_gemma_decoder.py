"""Cached decoding equals keras-hub's own forward, for the shapes of Gemma and Gemma 2, adapters on."""

from keras_aha.decoding import cache as rings
from keras_aha.decoding.decoder import Prompt
from keras_aha.decoding.gemma_decoder import GemmaDecoder
from keras_aha.models.abstract_backbone import scale_queries
from keras_aha.training.grpo_model import GRPOModel
from keras_aha.training.log_probs import completion_log_probs

import jax
import jax.numpy as jnp
import numpy as np
import pytest

LENGTH = 12  # three windows of the Gemma 2 shape
STOPS = tuple("abcdefghijklmnop")  # so many that some rows stop and some do not


# === Sampled ===


@pytest.fixture(scope="module", params=("gemma", "gemma_2"))
def sampled(request, prompts):
    """`(model, token_ids, padding_mask, completions)`: two completions of each prompt, whose lengths differ."""
    model = GRPOModel(request.getfixturevalue(request.param))
    token_ids, padding_mask = model.tokenize(prompts)
    completions = model.generate(
        token_ids, padding_mask, group_size=2, max_completion_length=LENGTH, stop_tokens=STOPS, seed=1, entropy=True
    )
    assert len(set(completions.lengths)) > 2
    live = np.arange(LENGTH) < completions.lengths[:, None]
    token_ids = np.hstack([np.repeat(token_ids, 2, axis=0), completions.token_ids])
    padding_mask = np.hstack([np.repeat(padding_mask, 2, axis=0), live]).astype("int32")
    return model, token_ids, padding_mask, completions


def log_softmax(logits):
    logits = np.asarray(logits, "float64")
    return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


def test_log_probs_and_entropy_are_those_of_training(sampled):
    model, token_ids, padding_mask, completions = sampled
    expected = jax.jit(completion_log_probs, static_argnums=(0, 3))(
        model.policy, token_ids, padding_mask, LENGTH, np.ones(len(token_ids), "float32")
    )
    live = padding_mask[:, -LENGTH:] > 0
    np.testing.assert_allclose(completions.log_probs[live], expected[0][live], atol=1e-5)
    np.testing.assert_allclose(completions.entropy[live], expected[1][live], atol=1e-5)


def test_equals_the_forward_of_keras_hub_without_padding(sampled):
    model, token_ids, padding_mask, completions = sampled
    row = int(np.argmax(completions.lengths))
    tokens = token_ids[row][padding_mask[row] > 0]
    length = completions.lengths[row]
    logits = jax.jit(model.policy)({"token_ids": tokens[None], "padding_mask": np.ones((1, len(tokens)), "int32")})
    expected = log_softmax(logits[0])[np.arange(-length - 1, -1), tokens[-length:]]
    np.testing.assert_allclose(completions.log_probs[row, :length], expected, atol=1e-5)


# === Step by step ===

PROMPT = 9
ARCHITECTURES = {
    "gemma": dict(),
    "a window of 4": dict(shape="gemma_2"),
    "a window that the prompt is shorter than": dict(shape="gemma_2", sliding_window_size=11),
    "a window that all is shorter than": dict(shape="gemma_2", sliding_window_size=100),
    "queries scaled by the hidden dim": dict(shape="gemma_2", query_head_dim_normalize=False),
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def backbone(request, make_policy):
    return scale_queries(make_policy(**ARCHITECTURES[request.param]).backbone)


@pytest.fixture(scope="module")
def rows():
    """`(token_ids, starts)`: two groups of two, prompts of 9 and 6 tokens, left-padded, with 12 tokens more."""
    starts = np.array([0, 0, 3, 3], "int32")
    token_ids = np.random.default_rng(0).integers(1, 200, (4, PROMPT + LENGTH)).astype("int32")
    token_ids[1::2, :PROMPT] = token_ids[::2, :PROMPT]
    return token_ids * (np.arange(PROMPT + LENGTH) >= starts[:, None]), starts


def step_by_step(decoder, token_ids, starts, shared):
    """Final hidden states from the prompt's last position on, `(B, C, D)`; the last token is not read."""
    hidden, columns = decoder.prefill(token_ids[::2, :PROMPT], starts[::2], 0)

    def rings_of(slots):
        sizes = decoder.ring_sizes(slots)
        return tuple(
            tuple(rings.from_columns(x, 0, size) for x in layer) for layer, size in zip(columns, sizes, strict=True)
        )

    if shared:
        prompt = Prompt(rings_of(PROMPT), PROMPT)
        sizes = decoder.ring_sizes(LENGTH)
        shapes = [(4, keys.shape[1], size, keys.shape[3]) for (keys, _), size in zip(columns, sizes, strict=True)]
        cache = tuple((jnp.full(shape, 1e3),) * 2 for shape in shapes)  # what stands there must not matter
    else:
        prompt, cache = None, jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), rings_of(PROMPT + LENGTH))

    def step(carry, token_ids):
        index, cache = carry
        hidden, cache = decoder.step(token_ids, index, starts, cache, prompt)
        return (index + 1, cache), hidden

    _, later = jax.lax.scan(step, (PROMPT, cache), token_ids[:, PROMPT:-1].T)
    return jnp.concatenate([jnp.repeat(hidden, 2, axis=0)[:, None], jnp.moveaxis(later, 0, 1)], axis=1)


@pytest.mark.parametrize("shared", (False, True))
def test_each_step_equals_the_forward_of_keras_hub(backbone, rows, shared):
    token_ids, starts = rows
    padding_mask = (np.arange(token_ids.shape[1]) >= starts[:, None]).astype("int32")
    expected = jax.jit(backbone)({"token_ids": token_ids, "padding_mask": padding_mask})[:, PROMPT - 1 : -1]
    hidden = jax.jit(step_by_step, static_argnums=(0, 3))(GemmaDecoder(backbone), token_ids, starts, shared)
    np.testing.assert_allclose(hidden, expected, atol=1e-5)


def test_the_scale_of_queries_matters(make_policy, rows):
    """Or the test above would not see it."""
    inputs = {"token_ids": rows[0], "padding_mask": np.ones_like(rows[0])}
    backbones = [scale_queries(make_policy("gemma_2", query_head_dim_normalize=yes).backbone) for yes in (True, False)]
    hidden, other = (np.asarray(jax.jit(backbone)(inputs)) for backbone in backbones)
    assert np.abs(hidden - other).max() > 1e-2


def test_where_a_prompt_stands_changes_nothing(backbone, rows):
    """More padding, or a later position, as of a row that is admitted while others are being decoded."""
    decoder = GemmaDecoder(backbone)
    prefill = jax.jit(lambda *arguments: decoder.prefill(*arguments)[0])
    token_ids, starts = rows[0][:, :PROMPT], rows[1]
    hidden = prefill(token_ids, starts, 0)
    np.testing.assert_allclose(prefill(np.pad(token_ids, [(0, 0), (5, 0)]), starts + 5, 0), hidden, atol=1e-5)
    np.testing.assert_allclose(prefill(token_ids, starts + 77, 77), hidden, atol=1e-5)


def test_windows_and_rings(backbone):
    decoder = GemmaDecoder(backbone)
    window = backbone.sliding_window_size if backbone.use_sliding_window_attention else None
    assert decoder.windows == (window, None)  # keras-hub's Gemma 2 has windows in every other layer, from the first on
    assert decoder.ring_sizes(50) == (min(window or 50, 50), 50)
