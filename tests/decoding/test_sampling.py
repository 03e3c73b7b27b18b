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
    *(dict(temperature=0.7), dict(top_k=4), dict(top_k=99)),  # more than there are
    *(dict(top_p=0.75, temperature=0.5), dict(top_p=1.0), dict(min_p=0.1, temperature=2.0)),
    # What is left is decided by top_k, by top_p, by min_p.
    *(dict(top_k=3, top_p=0.97), dict(top_k=6, top_p=0.75), dict(top_k=4, min_p=0.3)),
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
    sampling = Sampling(top_k, top_p, min_p)  # numbers that are traced, so that few programs do
    return jax.vmap(lambda p: sample(logits, keys, jnp.full(len(keys), p), temperature, sampling))(jnp.arange(10))


_draw = jax.jit(_draw, static_argnums=0)


def draw(temperature=1.0, top_k=None, top_p=None, min_p=None):
    """`(token_ids, log_probs)`, each `(10 positions, 2000 rows)`."""
    return [np.asarray(array) for array in _draw(top_k, _keys(), temperature, top_p, min_p)]


def too_far(token_ids, p):
    """Whether the draws do not follow `p`, by a chi-square test."""
    counts = np.bincount(token_ids.ravel(), minlength=len(p))
    assert not counts[p == 0].any()
    expected = token_ids.size * p[p > 0]
    return np.sum((counts[p > 0] - expected) ** 2 / expected) > CHI_SQUARE_999[np.count_nonzero(p) - 1]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_draws_follow_the_exact_distribution(options):
    token_ids, log_probs = draw(**options)
    p = exact(**options)
    assert len(np.unique(token_ids)) == np.count_nonzero(p) > 1
    assert not too_far(token_ids, p)
    # It would be noticed if the likeliest token came a tenth less often than it should.
    wrong = np.where(p == p.max(), 0.9 * p, p)
    assert too_far(token_ids, wrong / wrong.sum())
    whole = softmax(LOGITS, options.get("temperature", 1.0))  # whatever may be drawn
    np.testing.assert_allclose(log_probs, np.log(whole)[token_ids], atol=1e-6)


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
    token_ids, _ = draw()
    chance = np.sum(softmax(LOGITS) ** 2)
    for agree in (token_ids[1:] == token_ids[:-1], token_ids[:, 1:] == token_ids[:, :-1]):
        assert abs(agree.mean() - chance) < 4 * np.sqrt(chance * (1 - chance) / agree.size)
    # Each row is at a position of its own: what it draws there is what it would draw with all others.
    ids, log_probs = sample(jnp.tile(LOGITS, (3, 1)), _keys()[:3], jnp.arange(3), 1.0)
    assert (ids.dtype, log_probs.dtype) == ("int32", "float32")
    np.testing.assert_array_equal(ids, token_ids[np.arange(3), np.arange(3)])


def test_each_bit_of_a_seed_counts():
    """And seeds of 32 bits draw what JAX's own keys do."""
    seeds = [0, 1, 2**32 - 1, 2**32, 2**32 + 1, 2**33, 2**64, 2**65, -(2**33)]
    keys = [jax.random.key_data(row_keys(seed, 3, jnp.arange(1))).tolist() for seed in seeds]
    assert len({str(key) for key in keys}) == len(seeds)
    own = [jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 3), 0) for seed in seeds[:3]]
    assert keys[:3] == [[jax.random.key_data(key).tolist()] for key in own]
    with pytest.raises(TypeError):
        row_keys(1.5, 3, jnp.arange(1))


def test_temperature_0_takes_the_best_and_reports_it_at_temperature_1():
    for options in ({}, dict(top_k=4), dict(top_p=0.75, min_p=0.1)):
        token_ids, log_probs = draw(temperature=0.0, **options)
        assert (token_ids == np.argmax(LOGITS)).all()
        np.testing.assert_allclose(log_probs, np.log(softmax(LOGITS).max()), atol=1e-6)
