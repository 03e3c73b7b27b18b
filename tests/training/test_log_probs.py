"""Log-probs in chunks against the plain log-softmax of all logits."""

from keras_aha.training import log_probs as module
from keras_aha.training.log_probs import TeacherStates, completion_log_probs
from keras_aha.training.rollout import split_texts

import jax
import jax.numpy as jnp
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


def weighted_sum(policy, rows, entropy_weight, entropy_gradient=False, teacher=None):
    """A function of the embeddings, with the log-probs and entropies as its second result."""

    texts = split_texts(*rows, LENGTH).values()

    def run(embeddings):
        with keras.StatelessScope([(policy.backbone.token_embedding._embeddings, embeddings)]):
            log_probs, entropy, *kl = completion_log_probs(policy, *texts, TEMPERATURE, entropy_gradient, teacher)
        return (PARTS * sum(kl, log_probs + entropy_weight * entropy)).sum(), (log_probs, entropy)

    return run


def of_full_logits(policy, token_ids, padding_mask):
    """`(log_probs, entropy)` by a plain log-softmax."""
    logits = policy({"token_ids": token_ids, "padding_mask": padding_mask})
    log_softmax = jax.nn.log_softmax(logits[:, -LENGTH - 1 : -1] / TEMPERATURE[:, None, None])
    log_probs = jnp.take_along_axis(log_softmax, token_ids[:, -LENGTH:, None], axis=-1)[..., 0]
    return log_probs, -jnp.sum(jnp.exp(log_softmax) * log_softmax, axis=-1)


@pytest.mark.parametrize("positions, entropy", ((LENGTH, (0.0, False)), (4, (1.0, False)), (4, (1.0, True))))
def test_equal_to_the_full_softmax(monkeypatch, policy, rows, positions, entropy):
    """The entropy has no gradient unless it is asked for, so its weight changes none."""
    table = policy.backbone.token_embedding._embeddings

    def expected(embeddings):
        with keras.StatelessScope([(table, embeddings)]):
            log_probs, of_all = of_full_logits(policy, *rows)
        return (PARTS * (log_probs + np.prod(entropy) * of_all)).sum()

    wanted_gradient = jax.jit(jax.grad(expected))(table.value)
    logits = np.asarray(policy(dict(zip(("token_ids", "padding_mask"), rows, strict=True))), "float64")
    log_softmax = logits[:, -LENGTH - 1 : -1] / TEMPERATURE[:, None, None]
    log_softmax -= np.logaddexp.reduce(log_softmax, axis=-1, keepdims=True)
    wanted = np.take_along_axis(log_softmax, rows[0][:, -LENGTH:, None], axis=-1)[..., 0]
    wanted = wanted, -np.sum(np.exp(log_softmax) * log_softmax, axis=-1)
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", 3 * policy.backbone.vocabulary_size * positions)
    program = jax.jit(jax.grad(weighted_sum(policy, rows, *entropy), has_aux=True))
    gradient, outputs = program(table.value)
    for output, value in zip(outputs, wanted, strict=True):
        np.testing.assert_allclose(output, value, atol=1e-5)
    np.testing.assert_allclose(gradient, wanted_gradient, atol=1e-5 * np.linalg.norm(wanted_gradient))


@pytest.mark.parametrize("tables", (1, 2))
def test_logits_never_exist_all_at_once(monkeypatch, policy, rows, tables):
    """Neither the forward nor the backward program has an array `(B, C, V)`, with a teacher neither."""
    vocabulary = policy.backbone.vocabulary_size
    states = TeacherStates(np.ones((3, LENGTH, 16), "f4"), policy.backbone.token_embedding, 1.0, True)

    def program():
        run = weighted_sum(policy, rows, 1.0, teacher=states if tables == 2 else None)
        gradient = jax.grad(run, has_aux=True)
        return str(jax.make_jaxpr(gradient)(policy.backbone.token_embedding._embeddings.value))

    assert f"[3,{LENGTH},{vocabulary}]" in program()  # in one chunk it has: the search finds what it looks for
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", 3 * vocabulary * 4 * tables)
    chunked = program()
    assert f"[3,4,{vocabulary}]" in chunked
    for positions in (LENGTH, 12, LENGTH + 6):
        assert f"[3,{positions},{vocabulary}]" not in chunked


def test_absolute_positions_are_refused(rows):
    shape = dict(vocabulary_size=202, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=16)
    backbone = keras_hub.models.GPT2Backbone(**shape, max_sequence_length=32)
    policy = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
    with pytest.raises(ValueError, match="embeddings of absolute positions.*Received: policy=GPT2CausalLM"):
        completion_log_probs(policy, *split_texts(*rows, LENGTH).values(), TEMPERATURE)
