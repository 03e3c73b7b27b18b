"""The sampler alone, against the exact distribution."""

from keras_aha.decoding.sampling import Sampling, row_keys, sample
from keras_aha.decoding.sampling import _draw as draw_tokens

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampling_oracle import drawn

LOGITS = np.array([2.0, -1.0, 0.5, 0.3, 1.2, -3.0, 0.0, 1.9], "float32")
CHI_SQUARE_999 = (0.0, 10.8, 13.8, 16.3, 18.5, 20.5, 22.5, 24.3)  # the quantile of 99.9 % by degrees of freedom
OPTIONS = [
    dict(temperature=1.0),
    dict(temperature=0.7),
    dict(top_k=4),
    dict(top_k=8),
    dict(top_k=99),  # more than there are
    dict(top_p=0.75),
    dict(top_p=0.75, temperature=0.5),
    dict(top_p=0.97),
    dict(top_p=1.0),
    dict(min_p=0.1),
    dict(min_p=0.1, temperature=2.0),
    dict(min_p=0.01),
    dict(top_k=3, top_p=0.97),  # what is left is decided by top_k,
    dict(top_k=6, top_p=0.75),  # by top_p,
    dict(top_k=4, min_p=0.3),  # by min_p
    dict(top_p=0.9, min_p=0.2, temperature=1.5),
    dict(top_k=7, top_p=0.97, min_p=0.05, temperature=1.3),
]


def softmax(logits, temperature=1.0):
    p = np.exp(np.asarray(logits, "float64") / temperature)
    return p / p.sum()


def exact(temperature=1.0, top_k=None, top_p=None, min_p=None):
    """The distribution that is drawn from: probabilities of the tokens that all limits allow, which add up to 1."""
    p = softmax(LOGITS, temperature)
    best_first = np.argsort(-p)
    allowed = [set(best_first[:top_k]), {token for token in best_first if p[token] >= (min_p or 0.0) * p.max()}]
    total, fewest = 0.0, set()
    for token in best_first:
        if total < (top_p or 2.0):
            fewest.add(token)
        total += p[token]
    allowed = set.intersection(*allowed, fewest)
    p = np.where([token in allowed for token in range(len(p))], p, 0.0)
    return p / p.sum()


@jax.jit
def _keys():
    return row_keys(0, 0, jnp.arange(2000))


def _draw(top_k, keys, temperature, top_p, min_p):
    logits = jnp.tile(LOGITS, (len(keys), 1))
    sampling = Sampling(top_k, top_p, min_p, entropy=True)  # numbers that are traced, so that few programs do
    return jax.vmap(lambda p: sample(logits, keys, jnp.full(len(keys), p), temperature, sampling))(jnp.arange(10))


_draw = jax.jit(_draw, static_argnums=0)


def draw(temperature=1.0, top_k=None, top_p=None, min_p=None):
    """`(token_ids, log_probs, entropy)`, each `(10 positions, 2000 rows)`."""
    return [np.asarray(array) for array in _draw(top_k, _keys(), temperature, top_p, min_p)]


def chi_square(token_ids, p):
    counts = np.bincount(token_ids.ravel(), minlength=len(p))
    assert not counts[p == 0].any()
    expected = token_ids.size * p[p > 0]
    return np.sum((counts[p > 0] - expected) ** 2 / expected), CHI_SQUARE_999[np.count_nonzero(p) - 1]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_draws_follow_the_exact_distribution(options):
    token_ids, log_probs, entropy = draw(**options)
    p = exact(**options)
    assert len(np.unique(token_ids)) == np.count_nonzero(p) > 1
    statistic, critical = chi_square(token_ids, p)
    assert statistic < critical
    # It would be noticed if the likeliest token came a tenth less often than it should.
    wrong = np.where(p == p.max(), 0.9 * p, p)
    statistic, critical = chi_square(token_ids, wrong / wrong.sum())
    assert statistic > critical
    whole = softmax(LOGITS, options.get("temperature", 1.0))  # whatever may be drawn
    np.testing.assert_allclose(log_probs, np.log(whole)[token_ids], atol=1e-6)
    np.testing.assert_allclose(entropy, -np.sum(whole * np.log(whole)), atol=1e-6)


def test_a_wrong_temperature_would_be_noticed():
    token_ids, _, _ = draw(temperature=0.7)
    statistic, critical = chi_square(token_ids, softmax(LOGITS, 0.75))
    assert statistic > critical


@pytest.mark.parametrize("size", (1, 2, 3, 16, 17, 50))
def test_vocabularies_of_any_size(size):
    """Of one block, of full ones, and with a last one that is not full."""
    p = softmax(np.random.default_rng(size).normal(0.0, 1.0, size))
    uniform = np.random.default_rng(1).random((20_000, 2)).astype("float32")
    token_ids = np.asarray(draw_tokens(jnp.broadcast_to(jnp.asarray(p, "float32"), (20_000, size)), uniform))
    assert token_ids.min() >= 0 and token_ids.max() < size
    counts = np.bincount(token_ids, minlength=size)
    assert np.all(np.abs(counts - 20_000 * p) < 4.5 * np.sqrt(20_000 * p * (1 - p)) + 1e-6)
    expected, margins = drawn(np.broadcast_to(p, (20_000, size)), uniform.astype("float64"))
    np.testing.assert_array_equal(token_ids[margins > 1e-6], expected[margins > 1e-6])


@pytest.mark.parametrize("uniform", (0.0, 0.5, 1 - 2**-24))
def test_tokens_without_probability_are_never_drawn(uniform):
    """Neither by the least random number nor by the largest, be they first or last in a block, or a block of them."""
    allowed = [7, 8, 13, 21]
    for some in (allowed, allowed[:1], allowed[-1:]):
        p = np.zeros((1, 30), "float32")
        p[:, some] = 1 / 3  # does not add up to 1
        for other in (0.0, 1 - 2**-24):
            token = int(draw_tokens(jnp.asarray(p), jnp.array([[uniform, other]], "float32"))[0])
            assert token in some


def test_neighbours_are_independent():
    """Rows and positions next to each other agree as often as chance has it, and no more."""
    token_ids, _, _ = draw()
    chance = np.sum(softmax(LOGITS) ** 2)
    for agree in (token_ids[1:] == token_ids[:-1], token_ids[:, 1:] == token_ids[:, :-1]):
        assert abs(agree.mean() - chance) < 4 * np.sqrt(chance * (1 - chance) / agree.size)


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-6}, {"top_p": 0.3}, {"min_p": 1.0}, {"min_p": 0.95}])
def test_the_best_token_is_always_allowed(options):
    assert np.unique(draw(**options)[0]).tolist() == [0]


def test_the_limits_at_their_borders():
    """Worked out by hand: probabilities over the best's are 1, 0.90, 0.45, 0.22, 0.18, 0.14, 0.05, 0.007."""
    assert set(np.unique(draw(min_p=0.2)[0])) == {0, 7, 4, 2}
    assert set(np.unique(draw(top_k=3, min_p=0.2)[0])) == {0, 7, 4}
    assert set(np.unique(draw(top_p=0.6)[0])) == {0, 7}  # 0.34 and 0.31 of 1
    assert set(np.unique(draw(top_p=0.7)[0])) == {0, 7, 4}


def test_temperature_0_takes_the_best_and_reports_it_at_temperature_1():
    for options in ({}, dict(top_k=4), dict(top_p=0.75, min_p=0.1)):
        token_ids, log_probs, entropy = draw(temperature=0.0, **options)
        assert (token_ids == np.argmax(LOGITS)).all()
        p = softmax(LOGITS)
        np.testing.assert_allclose(log_probs, np.log(p.max()), atol=1e-6)
        np.testing.assert_allclose(entropy, -np.sum(p * np.log(p)), atol=1e-6)


def test_entropy_is_left_out_where_it_is_not_asked_for():
    keys = _keys()[:3]
    token_ids, log_probs, entropy = sample(jnp.tile(LOGITS, (3, 1)), keys, jnp.arange(3), 1.0)
    assert not entropy.any()
    assert (token_ids.dtype, log_probs.dtype, entropy.dtype) == ("int32", "float32", "float32")
    # Each row is at a position of its own: what it draws there is what it would draw with all others.
    np.testing.assert_array_equal(token_ids, draw()[0][np.arange(3), np.arange(3)])


def test_row_keys_depend_on_seed_iteration_and_row():
    seen = {}
    for seed in (0, 1):
        for iteration in (0, 1):
            for row, data in enumerate(jax.random.key_data(row_keys(seed, iteration, np.arange(50)))):
                seen[seed, iteration, row] = tuple(np.asarray(data))
    assert len(set(seen.values())) == len(seen) == 200
    later = jax.random.key_data(row_keys(1, 1, 50 - np.arange(50)))
    assert tuple(np.asarray(later[20])) == seen[1, 1, 30]
