"""Cached decoding equals keras-hub's own forward, for the shapes of Gemma and Gemma 2, adapters on."""

from keras_aha.decoding.gemma_decoder import GemmaDecoder
from keras_aha.grpo_model import GRPOModel
from keras_aha.log_probs import completion_log_probs

import jax
import numpy as np
import pytest

LENGTH = 12  # three windows of the Gemma 2 shape
STOPS = tuple("abcdefghijklmnop")  # so many that some rows stop and some do not


@pytest.fixture(scope="module", params=("gemma", "gemma_2"))
def sampled(request, prompts):
    """`(model, token_ids, padding_mask, completions)`: two completions of each prompt, whose lengths differ."""
    model = GRPOModel(request.getfixturevalue(request.param))
    token_ids, padding_mask = model.tokenize(prompts)
    completions = model.generate(
        token_ids, padding_mask, group_size=2, max_completion_length=LENGTH, stop_tokens=STOPS, seed=1
    )
    assert len(set(completions.lengths)) > 2
    live = np.arange(LENGTH) < completions.lengths[:, None]
    token_ids = np.hstack([np.repeat(token_ids, 2, axis=0), completions.token_ids])
    padding_mask = np.hstack([np.repeat(padding_mask, 2, axis=0), live]).astype("int32")
    return model, token_ids, padding_mask, completions


def log_softmax(logits):
    logits = np.asarray(logits, "float64")
    return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


def test_cache_correctness(sampled):
    model, token_ids, padding_mask, completions = sampled
    log_probs, _ = jax.jit(completion_log_probs, static_argnums=(0, 3))(
        model.policy, token_ids, padding_mask, LENGTH, np.ones(len(token_ids), "float32")
    )
    live = padding_mask[:, -LENGTH:] > 0
    np.testing.assert_allclose(completions.log_probs[live], log_probs[live], atol=1e-5)


def test_equals_the_forward_of_keras_hub_without_padding(sampled):
    model, token_ids, padding_mask, completions = sampled
    row = int(np.argmax(completions.lengths))
    tokens = token_ids[row][padding_mask[row] > 0]
    length = completions.lengths[row]
    logits = jax.jit(model.policy)({"token_ids": tokens[None], "padding_mask": np.ones((1, len(tokens)), "int32")})
    expected = log_softmax(logits[0])[np.arange(-length - 1, -1), tokens[-length:]]
    np.testing.assert_allclose(completions.log_probs[row, :length], expected, atol=1e-5)


def test_left_padding_changes_nothing(sampled):
    model, token_ids, padding_mask, _ = sampled
    prefill = jax.jit(lambda ids, mask: GemmaDecoder(model.policy.backbone).prefill(ids, mask)[0])
    hidden = prefill(token_ids[:, :-LENGTH], padding_mask[:, :-LENGTH])
    more = [(0, 0), (5, 0)]
    padded = prefill(np.pad(token_ids[:, :-LENGTH], more), np.pad(padding_mask[:, :-LENGTH], more))
    np.testing.assert_allclose(hidden, padded, atol=1e-5)
