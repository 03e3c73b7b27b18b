"""What each token brings to the loss, by hand."""

import math

from keras_aha.losses import aggregation_weights, clipped_surrogate, importance_ratio, importance_weights, kl_divergence

import jax
import numpy as np
import pytest

AGGREGATIONS = ("token_mean", "sequence_mean", "fixed_length")


def test_aggregation_weights_by_hand():
    mask = [[True, True, True, False], [True, False, False, False]]
    np.testing.assert_allclose(aggregation_weights(mask), np.array(mask) / 4)
    np.testing.assert_allclose(
        aggregation_weights(mask, "sequence_mean"), [[1 / 6, 1 / 6, 1 / 6, 0], [1 / 2, 0, 0, 0]], rtol=1e-6
    )
    np.testing.assert_allclose(aggregation_weights(mask, "fixed_length"), np.array(mask) / 8)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_completions_masked_out_whole(aggregation):
    nothing = np.asarray(aggregation_weights(np.zeros((2, 3), bool), aggregation))
    assert not nothing.any()  # and no NaN
    weights = np.asarray(aggregation_weights([[True, True], [False, False]], aggregation))
    assert weights.sum() == (0.5 if aggregation == "fixed_length" else 1.0)


def test_importance_ratio_by_hand():
    log_probs, old = np.log([[0.5, 0.2, 0.9]]), np.log([[0.25, 0.4, 0.1]])
    mask = np.array([[True, True, False]])
    np.testing.assert_allclose(importance_ratio(log_probs, old, mask), [[2.0, 0.5, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(importance_ratio(log_probs, old, [[True, False, True]]), [[2.0, 1.0, 9.0]], rtol=1e-6)
    # the geometric mean of 2 and 9
    np.testing.assert_allclose(
        importance_ratio(log_probs, old, [[True, False, True]], "sequence"), [[18**0.5, 1.0, 18**0.5]], rtol=1e-6
    )


def test_sequence_ratio_gradient_reaches_every_token():
    mask = np.array([[True, True, True, False]])
    gradient = jax.grad(lambda x: importance_ratio(x, np.zeros((1, 4)), mask, "sequence")[0, 0])(np.zeros((1, 4), "f"))
    np.testing.assert_allclose(gradient, [[1 / 3, 1 / 3, 1 / 3, 0.0]], rtol=1e-6)


@pytest.mark.parametrize(
    "clip_range, delta, values, gradients",
    [
        # ratios of a good completion and of a bad one: 0.5, 1, 1.5, 3.5
        ((0.2, 0.3), None, [[0.5, 1, 1.3, 1.3], [-0.8, -1, -1.5, -3.5]], [[1, 1, 0, 0], [0, 1, 1, 1]]),
        # The good one is clipped long before delta; of the bad one only delta bounds what pulls.
        (0.2, 3.0, [[0.5, 1, 1.2, 1.2], [-0.8, -1, -1.5, -3.0]], [[1, 1, 0, 0], [0, 1, 1, 0]]),
    ],
)
def test_clipped_surrogate_by_hand(clip_range, delta, values, gradients):
    ratio = np.array([[0.5, 1, 1.5, 3.5]] * 2, "f")
    surrogate = clipped_surrogate(ratio, [2.0, -2.0], clip_range, delta)
    np.testing.assert_allclose(surrogate, 2 * np.array(values), rtol=1e-6)
    gradient = jax.grad(lambda x: clipped_surrogate(x, [1.0, -1.0], clip_range, delta).sum())(ratio)
    np.testing.assert_array_equal(gradient, np.array(gradients) * [[1], [-1]])


def test_importance_weights_by_hand():
    old, sampler = np.log([[0.5, 0.2, 0.9, 0.4]]), np.log([[0.25, 0.4, 0.1, 0.1]])
    mask = [[True, True, True, False]]
    np.testing.assert_allclose(importance_weights(old, sampler, mask, cap=3.0), [[2.0, 0.5, 3.0, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(importance_weights(old, sampler, mask, cap=10.0), [[2.0, 0.5, 9.0, 1.0]], rtol=1e-6)
    assert (np.asarray(importance_weights(old, old, mask, cap=1.0)) == 1.0).all()
    dirty = np.where(mask, sampler, math.nan)
    np.testing.assert_array_equal(
        importance_weights(old, dirty, mask, 3.0), importance_weights(old, sampler, mask, 3.0)
    )
    assert not jax.grad(lambda x: importance_weights(x, sampler, mask, 3.0).sum())(np.asarray(old, "f")).any()


def test_kl_gradients_are_those_documented():
    rng = np.random.default_rng(0)
    logits, reference = rng.normal(size=(2, 6)).astype("float32")
    reference = jax.nn.log_softmax(reference)

    def mean_gradient(estimator):  # over every token the policy could sample, weighted by its probability
        probs = jax.nn.softmax(logits)
        return jax.grad(lambda x: (probs * kl_divergence(jax.nn.log_softmax(x), reference, estimator)).sum())(logits)

    def reverse_kl(x):
        return (jax.nn.softmax(x) * (jax.nn.log_softmax(x) - reference)).sum()

    def forward_kl(x):
        return (jax.numpy.exp(reference) * (reference - jax.nn.log_softmax(x))).sum()

    np.testing.assert_allclose(mean_gradient("k1"), 0.0, atol=1e-6)
    for estimator in ("k2", "k1+", "k3+"):
        np.testing.assert_allclose(mean_gradient(estimator), jax.grad(reverse_kl)(logits), atol=1e-6)
    np.testing.assert_allclose(mean_gradient("k3"), jax.grad(forward_kl)(logits), atol=1e-6)


def test_functions_name_their_choices():
    zeros = np.zeros((1, 2))
    for function, arguments, received in [
        (aggregation_weights, (zeros, "sum"), "aggregation='sum'"),
        (importance_ratio, (zeros, zeros, zeros, "none"), "ratio='none'"),
        (kl_divergence, (zeros, zeros, "k0"), "estimator='k0'"),
    ]:
        with pytest.raises(ValueError, match=f"must be one of .* Received: {received}"):
            function(*arguments)
    for delta in (1.0, 1.28, math.inf, math.nan, "3", True):
        with pytest.raises(ValueError, match=r"`delta` must be a number above 1\.28, .* Received: delta="):
            clipped_surrogate(zeros, [1.0], (0.2, 0.28), delta)
