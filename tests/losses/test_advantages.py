"""Advantages against the oracle, and by what they promise."""

import itertools
import math

from keras_aha.losses import group_advantages, overlong_penalty

import numpy as np
import pytest
from loss_oracle import oracle_advantages

NAN = math.nan


@pytest.mark.parametrize("baseline", ("mean", "leave_one_out"))
@pytest.mark.parametrize("scale", ("std", "batch", None))
def test_advantages_match_the_oracle_and_equal_rewards_teach_exactly_nothing(scale, baseline):
    rewards = np.random.default_rng(0).choice([0.0, 0.1, 1.0, 1.1, NAN], 60)
    for group_size in (2, 5, 12):
        expected = oracle_advantages(rewards, group_size, scale, baseline)
        np.testing.assert_allclose(group_advantages(rewards, group_size, scale, baseline), expected, atol=1e-5)
    for reward, group_size in itertools.product((0.0, 0.1, 1 / 3, -7.7, NAN), (2, 7, 16)):
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
    penalties = overlong_penalty(np.array([0, 1, 12, 13, 14, 16, 17, 40]), max_length=16, buffer=4)
    np.testing.assert_allclose(penalties, [0.0, 0.0, 0.0, -0.25, -0.5, -1.0, -1.0, -1.0])
    np.testing.assert_array_equal(overlong_penalty([9, 10], max_length=10, buffer=1), [0.0, -1.0])
    np.testing.assert_allclose(overlong_penalty([0, 5, 10], max_length=10, buffer=10), [0.0, -0.5, -1.0])


@pytest.mark.parametrize("buffer", (0, 17))
def test_overlong_buffer_is_within_the_limit(buffer):
    with pytest.raises(ValueError, match=rf"1 to 16 tokens\. Received: buffer={buffer}$"):
        overlong_penalty([1], max_length=16, buffer=buffer)
