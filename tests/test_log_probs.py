"""Log-probs in chunks against the plain log-softmax of all logits."""

from keras_aha import log_probs as module
from keras_aha.log_probs import completion_log_probs

import jax
import keras
import keras_hub
import numpy as np
import pytest

LENGTH = 10
TEMPERATURE = np.array([1.0, 0.7, 1.6], "float32")
PARTS = np.random.default_rng(1).normal(size=(3, LENGTH)).astype("float32")  # of a weighted sum


@pytest.fixture(scope="module")
def policy(make_policy):
    return make_policy("gemma", num_layers=1, final_logit_soft_cap=3.0)


@pytest.fixture(scope="module")
def rows():
    """`(token_ids, padding_mask)`, left-padded by 0, 2 and 4."""
    token_ids = np.random.default_rng(0).integers(1, 200, (3, 6 + LENGTH)).astype("int32")
    padding_mask = (np.arange(6 + LENGTH) >= np.array([[0], [2], [4]])).astype("int32")
    return token_ids * padding_mask, padding_mask


def weighted_sum(policy, rows, entropy_weight):
    """A function of the embeddings, with the log-probs and entropies as its second result."""

    def run(embeddings):
        with keras.StatelessScope([(policy.backbone.token_embedding._embeddings, embeddings)]):
            log_probs, entropy = completion_log_probs(policy, *rows, LENGTH, TEMPERATURE)
        return (PARTS * (log_probs + entropy_weight * entropy)).sum(), (log_probs, entropy)

    return run


def gradient_and_outputs(policy, rows, entropy_weight=0.0):
    embeddings = policy.backbone.token_embedding._embeddings.value
    return jax.jit(jax.grad(weighted_sum(policy, rows, entropy_weight), has_aux=True))(embeddings)


@pytest.fixture(scope="module")
def expected(policy, rows):
    """The same from the logits of the whole sequence."""
    token_ids, padding_mask = rows

    def run(embeddings):
        with keras.StatelessScope([(policy.backbone.token_embedding._embeddings, embeddings)]):
            logits = policy({"token_ids": token_ids, "padding_mask": padding_mask})
        log_softmax = jax.nn.log_softmax(logits[:, -LENGTH - 1 : -1] / TEMPERATURE[:, None, None])
        log_probs = jax.numpy.take_along_axis(log_softmax, token_ids[:, -LENGTH:, None], axis=-1)[..., 0]
        return (PARTS * log_probs).sum(), logits

    embeddings = policy.backbone.token_embedding._embeddings.value
    gradient, logits = jax.jit(jax.grad(run, has_aux=True))(embeddings)
    logits = np.asarray(logits, "float64")[:, -LENGTH - 1 : -1] / TEMPERATURE[:, None, None]
    log_softmax = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
    log_probs = np.take_along_axis(log_softmax, token_ids[:, -LENGTH:, None], axis=-1)[..., 0]
    return gradient, log_probs, -np.sum(np.exp(log_softmax) * log_softmax, axis=-1)


@pytest.mark.parametrize("positions_at_a_time", (LENGTH, 4))
def test_equal_to_the_full_softmax(monkeypatch, policy, rows, expected, positions_at_a_time):
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", 3 * policy.backbone.vocabulary_size * positions_at_a_time)
    gradient, (log_probs, entropy) = gradient_and_outputs(policy, rows)
    assert log_probs.shape == entropy.shape == (3, LENGTH)
    np.testing.assert_allclose(log_probs, expected[1], atol=1e-5)
    np.testing.assert_allclose(entropy, expected[2], atol=1e-5)
    np.testing.assert_allclose(gradient, expected[0], atol=1e-5 * np.linalg.norm(expected[0]))


def test_entropy_has_no_gradient(policy, rows, expected):
    gradient, _ = gradient_and_outputs(policy, rows, entropy_weight=1.0)
    np.testing.assert_allclose(gradient, expected[0], atol=1e-5 * np.linalg.norm(expected[0]))


def test_logits_never_exist_all_at_once(monkeypatch, policy, rows):
    """Neither the forward nor the backward program has an array `(B, C, V)`."""
    vocabulary = policy.backbone.vocabulary_size

    def program():
        gradient = jax.grad(weighted_sum(policy, rows, 1.0), has_aux=True)
        return str(jax.make_jaxpr(gradient)(policy.backbone.token_embedding._embeddings.value))

    assert f"[3,{LENGTH},{vocabulary}]" in program()  # in one chunk it has: the search finds what it looks for
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", 3 * vocabulary * 4)
    chunked = program()
    assert f"[3,4,{vocabulary}]" in chunked
    for positions in (LENGTH, 12, LENGTH + 6):
        assert f"[3,{positions},{vocabulary}]" not in chunked


def test_absolute_positions_are_refused(rows):
    shape = dict(vocabulary_size=202, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=16)
    backbone = keras_hub.models.GPT2Backbone(**shape, max_sequence_length=32)
    policy = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
    with pytest.raises(ValueError, match="embeddings of absolute positions.*Received: policy=GPT2CausalLM"):
        completion_log_probs(policy, *rows, LENGTH, TEMPERATURE)
