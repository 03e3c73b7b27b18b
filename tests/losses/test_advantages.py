"""Advantages by hand, against the oracle, and by what they promise."""

import itertools
import math

from keras_aha.losses import group_advantages, overlong_penalty

import numpy as np
import pytest
from loss_oracle import oracle_advantages

SCALES = ("std", "batch", None)
BASELINES = ("mean", "leave_one_out")
NAN = math.nan


ROOT_3 = math.sqrt(3.0)
BY_HAND = [
    # rewards, group size, scale, baseline → advantages
    ([1, 0, 0, 0, 0.5, 0.5, 1.5, 1.5], 4, "std", "mean", [ROOT_3, *[-1 / ROOT_3] * 3, -1, -1, 1, 1]),
    ([1, 0, 0, 0, 0.5, 0.5, 1.5, 1.5], 4, None, "mean", [0.75, -0.25, -0.25, -0.25, -0.5, -0.5, 0.5, 0.5]),
    # 1 − 0, 0 − 1/2, 0 − 1/2; 0.2 − 0.65, 0.4 − 0.55, 0.9 − 0.3
    ([1, 0, 0, 0.2, 0.4, 0.9], 3, None, "leave_one_out", [1.0, -0.5, -0.5, -0.45, -0.15, 0.6]),
    # The mean of all is 1.25. A group of equal rewards teaches nothing, though the batch has a spread.
    ([2, 2, 1, 0], 2, "batch", "mean", np.array([0, 0, 0.5, -0.5]) / math.sqrt(2.75 / 4)),
    # One reward that is known has nothing to be compared with.
    ([1, NAN, 0, 0.5, NAN, NAN, 3, NAN], 4, None, "mean", [0.5, 0, -0.5, 0, 0, 0, 0, 0]),
    ([1, NAN, 0, 0.5, NAN, NAN, 3, NAN], 4, None, "leave_one_out", [0.75, 0, -0.75, 0, 0, 0, 0, 0]),
]


@pytest.mark.parametrize("rewards, group_size, scale, baseline, advantages", BY_HAND)
def test_group_advantages_by_hand(rewards, group_size, scale, baseline, advantages):
    np.testing.assert_allclose(group_advantages(rewards, group_size, scale, baseline), advantages, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("scale", SCALES)
def test_advantages_match_the_oracle_and_equal_rewards_teach_exactly_nothing(scale, baseline):
    rewards = np.random.default_rng(0).choice([0.0, 0.1, 1.0, 1.1, NAN], 60)
    for group_size in (2, 5, 12):
        expected = oracle_advantages(rewards, group_size, scale, baseline)
        np.testing.assert_allclose(group_advantages(rewards, group_size, scale, baseline), expected, atol=1e-5)
    for reward in (0.0, 0.1, 1 / 3, -7.7, NAN):
        for group_size in (2, 7, 16):
            assert not np.asarray(group_advantages([reward] * (2 * group_size), group_size, scale, baseline)).any()


def test_leave_one_out_is_unbiased():
    """On every group of three that a policy over three completions can draw; the mean of the group shrinks by 2/3."""
    policy, rewards = np.array([0.2, 0.5, 0.3]), np.array([1.0, 0.0, 0.4])
    exact = policy * (rewards - policy @ rewards)  # ∇ E[reward] by the logits of a softmax
    groups = np.array(list(itertools.product(range(3), repeat=3)))
    chances = policy[groups].prod(axis=1)
    for baseline, factor in (("leave_one_out", 1.0), ("mean", 2 / 3)):
        advantages = np.asarray(group_advantages(rewards[groups].ravel(), 3, None, baseline)).reshape(-1, 3)
        gradients = np.einsum("gi,gik->gk", advantages, np.eye(3)[groups] - policy) / 3
        np.testing.assert_allclose(chances @ gradients, factor * exact, atol=1e-7)


def test_group_advantages_errors():
    with pytest.raises(ValueError, match=r"nothing to compare\. Received: group_size=1"):
        group_advantages([1.0, 0.0], group_size=1)
    with pytest.raises(ValueError, match=r"Received: rewards\.shape=\(5,\), group_size=2"):
        group_advantages(np.zeros(5), group_size=2)
    with pytest.raises(ValueError, match=r"`scale` must be one of 'std', 'batch', None\. Received: scale='mad'"):
        group_advantages([1.0, 0.0], group_size=2, scale="mad")
    with pytest.raises(ValueError, match=r"one of 'mean', 'leave_one_out'\. Received: baseline='median'"):
        group_advantages([1.0, 0.0], group_size=2, baseline="median")


def test_overlong_penalty_by_hand():
    np.testing.assert_allclose(
        overlong_penalty(np.array([0, 1, 12, 13, 14, 16, 17, 40]), max_length=16, buffer=4),
        [0.0, 0.0, 0.0, -0.25, -0.5, -1.0, -1.0, -1.0],
    )
    np.testing.assert_array_equal(overlong_penalty([9, 10], max_length=10, buffer=1), [0.0, -1.0])
    np.testing.assert_allclose(overlong_penalty([0, 5, 10], max_length=10, buffer=10), [0.0, -0.5, -1.0])


@pytest.mark.parametrize("buffer", (0, 17, -1))
def test_overlong_buffer_is_within_the_limit(buffer):
    with pytest.raises(ValueError, match=rf"1 to 16 tokens\. Received: buffer={buffer}$"):
        overlong_penalty([1], max_length=16, buffer=buffer)
