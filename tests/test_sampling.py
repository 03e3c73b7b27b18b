"""The sampler alone, against the exact distribution."""

import functools

from keras_aha.decoding.sampling import row_keys, sample

import jax
import jax.numpy as jnp
import numpy as np
import pytest

LOGITS = np.array([2.0, -1.0, 0.5, 0.3, 1.2, -3.0, 0.0, 1.9], "float32")
CHI_SQUARE_7_999 = 24.3  # the quantile of 99.9 % for 7 degrees of freedom
CHI_SQUARE_3_999 = 16.3


def softmax(logits, temperature=1.0):
    p = np.exp(np.asarray(logits, "float64") / temperature)
    return p / p.sum()


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _draw(rows, positions, top_k, keys, temperature, top_p):
    logits = jnp.tile(LOGITS, (rows, 1))
    return jax.vmap(lambda position: sample(logits, keys, position, temperature, top_k, top_p))(jnp.arange(positions))


def draw(rows=2000, positions=10, temperature=1.0, top_k=None, top_p=None):
    """`(token_ids, log_probs)`, `(positions, rows)`."""
    keys = row_keys(0, 0, np.arange(rows))
    return [np.asarray(array) for array in _draw(rows, positions, top_k, keys, temperature, top_p)]


def chi_square(token_ids, p):
    counts = np.bincount(token_ids.ravel(), minlength=len(p))
    assert not counts[p == 0].any()
    expected = token_ids.size * p[p > 0]
    return np.sum((counts[p > 0] - expected) ** 2 / expected)


@pytest.mark.parametrize("temperature", (0.7, 1.0))
def test_draws_follow_the_softmax(temperature):
    token_ids, log_probs = draw(temperature=temperature)
    p = softmax(LOGITS, temperature)
    assert chi_square(token_ids, p) < CHI_SQUARE_7_999
    np.testing.assert_allclose(log_probs, np.log(p)[token_ids], atol=1e-6)


def test_a_wrong_temperature_would_be_noticed():
    token_ids, _ = draw(temperature=0.7)
    assert chi_square(token_ids, softmax(LOGITS, 0.75)) > CHI_SQUARE_7_999


def test_neighbours_are_independent():
    """Rows and positions next to each other agree as often as chance has it, and no more."""
    token_ids, _ = draw()
    chance = np.sum(softmax(LOGITS) ** 2)
    for agree in (token_ids[1:] == token_ids[:-1], token_ids[:, 1:] == token_ids[:, :-1]):
        assert abs(agree.mean() - chance) < 4 * np.sqrt(chance * (1 - chance) / agree.size)


@pytest.mark.parametrize("top_k", (1, 4, 8))
def test_top_k(top_k):
    token_ids, log_probs = draw(top_k=top_k)
    p = softmax(LOGITS)
    p = np.where(p >= np.sort(p)[-top_k], p, 0.0)
    assert set(np.unique(token_ids)) == set(np.flatnonzero(p))
    if top_k == 4:
        assert chi_square(token_ids, p / p.sum()) < CHI_SQUARE_3_999
    np.testing.assert_allclose(log_probs, np.log(softmax(LOGITS))[token_ids], atol=1e-6)


@pytest.mark.parametrize(
    "top_p, temperature", [(1e-6, 1.0), (0.35, 1.0), (0.75, 1.0), (0.75, 0.5), (0.97, 1.0), (1.0, 1.0)]
)
def test_top_p(top_p, temperature):
    token_ids, log_probs = draw(top_p=top_p, temperature=temperature)
    p = softmax(LOGITS, temperature)
    support, total = set(), 0.0
    for token in np.argsort(-p):  # the fewest best tokens whose probabilities add up to top_p
        if total >= top_p:
            break
        support.add(token)
        total += p[token]
    assert set(np.unique(token_ids)) == support
    np.testing.assert_allclose(log_probs, np.log(p)[token_ids], atol=1e-6)


def test_top_k_and_top_p_both_hold():
    token_ids, _ = draw(top_k=3, top_p=0.97)
    assert set(np.unique(token_ids)) == set(np.argsort(-LOGITS)[:3])
    token_ids, _ = draw(top_k=3, top_p=0.35)
    assert set(np.unique(token_ids)) == {0, 7}


def test_temperature_0_takes_the_best_and_reports_it_at_temperature_1():
    token_ids, log_probs = draw(temperature=0.0)
    assert (token_ids == np.argmax(LOGITS)).all()
    np.testing.assert_allclose(log_probs, np.log(softmax(LOGITS).max()), atol=1e-6)


def test_row_keys_depend_on_seed_iteration_and_row():
    seen = {}
    for seed in (0, 1):
        for iteration in (0, 1):
            for row, data in enumerate(jax.random.key_data(row_keys(seed, iteration, np.arange(50)))):
                seen[seed, iteration, row] = tuple(np.asarray(data))
    assert len(set(seen.values())) == len(seen) == 200
    later = jax.random.key_data(row_keys(1, 1, 50 - np.arange(50)))
    assert tuple(np.asarray(later[20])) == seen[1, 1, 30]
