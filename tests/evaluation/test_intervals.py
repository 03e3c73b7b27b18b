import math

from keras_aha.evaluation.intervals import bootstrap_interval, share_interval

import numpy as np
import pytest


def test_two_puzzles_by_hand():
    # Resampled means of (0, 1) are 0, 1/2, 1 with probability 1/4, 1/2, 1/4: 95 % reaches from 0 to 1, 40 % is 1/2.
    assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], level=0.4) == (0.5, 0.5)
    assert bootstrap_interval([0.25] * 8) == bootstrap_interval([0.25]) == (0.25, 0.25)


def test_it_is_as_wide_as_the_normal_approximation():
    values = np.array([0.0] * 150 + [1.0] * 106)
    low, high = bootstrap_interval(values)
    mean, error = values.mean(), values.std() / math.sqrt(values.size)
    np.testing.assert_allclose([low, high], [mean - 1.96 * error, mean + 1.96 * error], atol=0.005)


def test_it_is_seeded_and_ignores_the_order_of_puzzles():
    values = np.random.default_rng(0).normal(size=500)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values[::-1], seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


@pytest.mark.parametrize("shares", [[0.5, 0.0, 1.0, 0.5], [1.0] * 9 + [0.5]])
def test_shares_that_differ_have_the_interval_of_a_bootstrap(shares):
    assert share_interval(shares, seed=3, level=0.9) == bootstrap_interval(shares, seed=3, level=0.9)


@pytest.mark.parametrize("n, level", [(1, 0.5), (10, 0.95), (128, 0.95)])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_equal_shares_end_where_the_draw_becomes_unlikely(share, n, level):
    """An end is the mean of a distribution that draws `share` so rarely, and else 0 or 1, that N in a row are rare."""
    low, high = share_interval([share] * n, level=level)
    for end, other in ((low, 0.0), (high, 1.0)):
        if share != other:
            drawn = (end - other) / (share - other)  # the probability of `share`
            assert drawn**n == pytest.approx((1 - level) / 2)
    assert low <= share <= high and (share not in (0, 1) or share in (low, high))


def test_puzzles_never_or_always_solved():
    # Published tables of exact binomial limits have 0 to 3.62 % for 0 of 100.
    assert share_interval([0.0] * 100) == pytest.approx((0.0, 0.0362), abs=5e-5)
    assert share_interval([1.0] * 100) == pytest.approx((0.9638, 1.0), abs=5e-5)


@pytest.mark.parametrize(
    "values, level, received",
    [
        *(([], 0.95, "values="), ([[0.0, 1.0]], 0.95, "values="), ([0.0, math.nan], 0.95, "values=")),
        *(([0.0, 1.0], 95, "level=95"), ([-0.1, 0.5], 0.95, "shares from"), ([0.5, 1.1], 0.95, "shares from")),
    ],
)
def test_other_values_are_refused(values, level, received):
    with pytest.raises(ValueError, match=f"Received: {received}"):
        share_interval(values, level=level)
