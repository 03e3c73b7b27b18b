"""Advantages: how much better a completion did than the others of its prompt; and what a long one loses."""

from keras_aha.losses.checks import check_choice, float32

from keras import ops

BASELINES = ("mean", "leave_one_out")
SCALES = ("std", "batch", None)
EPSILON = 1e-6


def group_advantages(rewards, group_size, scale="std", baseline="mean"):
    """How much better each completion did than the others of its prompt.

    Âᵢ = (rᵢ − b) / d   over the G completions of one prompt

    | `baseline`       | b                        | paper                                             |
    |------------------|--------------------------|---------------------------------------------------|
    | "mean"           | mean of the group        | GRPO, arXiv:2402.03300, §4.1.2                    |
    | "leave_one_out"  | mean of the other G − 1  | RLOO, arXiv:2402.14740, §2.3                      |

    | `scale` | d                                    | paper                                           |
    |---------|--------------------------------------|-------------------------------------------------|
    | "std"   | std of the group + ε                 | GRPO, as above                                  |
    | "batch" | std of all rewards of the batch + ε  | arXiv:2508.08221, §4: steadier for small groups |
    | None    | 1                                    | Dr. GRPO, arXiv:2503.20783, §3                  |

    Scale None with "leave_one_out" gives an unbiased estimate of the gradient of the mean reward; with "mean" it gives
    (G − 1) / G of it. Standard deviations are the population's, and ε = 1e-6. If all rewards of a group are equal, its
    advantages are exactly 0. A NaN is a reward that is missing: its advantage is 0, and the group is compared without.

    Args:
        rewards: (B,), the completions of one prompt in adjacent rows.
        group_size: int G ≥ 2, a divisor of B.
        scale: "std", "batch" or None.
        baseline: "mean" or "leave_one_out".

    Returns:
        (B,) float32.

    Raises:
        ValueError: if G is 1 or does not divide B, or for an unknown scale or baseline.
    """
    check_choice("scale", scale, SCALES)
    check_choice("baseline", baseline, BASELINES)
    rewards = float32(rewards)
    if group_size < 2:
        raise ValueError(
            "`group_size` must be at least 2: an advantage compares the completions of one prompt, and a group of one "
            f"has nothing to compare. Received: group_size={group_size}"
        )
    if len(rewards.shape) != 1 or rewards.shape[0] % group_size:
        raise ValueError(
            "`rewards` must have one axis, whose length is a multiple of `group_size`. "
            f"Received: rewards.shape={tuple(rewards.shape)}, group_size={group_size}"
        )
    groups = ops.reshape(rewards, (-1, group_size))
    known = ops.logical_not(ops.isnan(groups))
    count = ops.sum(float32(known), axis=1, keepdims=True)
    centred = _minus_mean(groups, known, axis=1)
    # The mean of equal numbers can miss them by a rounding error, which the division would blow up.
    lowest = ops.min(ops.where(known, groups, float("inf")), axis=1, keepdims=True)
    highest = ops.max(ops.where(known, groups, float("-inf")), axis=1, keepdims=True)
    advantages = ops.where(lowest < highest, centred, 0.0)
    if baseline == "leave_one_out":
        advantages *= count / ops.maximum(count - 1.0, 1.0)
    if scale == "std":
        advantages /= ops.sqrt(ops.sum(ops.square(centred), axis=1, keepdims=True) / ops.maximum(count, 1.0)) + EPSILON
    elif scale == "batch":
        squares = ops.square(_minus_mean(groups, known, axis=None))
        advantages /= ops.sqrt(ops.sum(squares) / ops.maximum(ops.sum(count), 1.0)) + EPSILON
    return ops.reshape(advantages, (-1,))


def overlong_penalty(lengths, max_length, buffer):
    """A penalty for length: soft overlong punishment, DAPO, arXiv:2503.14476, eq. 13.

    It is 0 up to `max_length − buffer` tokens and falls linearly to −1 at `max_length`, at which completions are cut.

    Args:
        lengths: (B,) tokens of each completion.
        max_length: int, the limit on completions, in tokens.
        buffer: int, 1 to `max_length`, in tokens.

    Returns:
        (B,) float32, −1 to 0, to be added to rewards.

    Raises:
        ValueError: for a buffer out of bounds.
    """
    if not 1 <= buffer <= max_length:
        raise ValueError(f"`buffer` must be 1 to {max_length} tokens. Received: buffer={buffer}")
    return -ops.clip((float32(lengths) - (max_length - buffer)) / buffer, 0.0, 1.0)


def _minus_mean(x, known, axis):
    """`x` minus the mean of its known elements; 0 at the others."""
    total = ops.sum(ops.where(known, x, 0.0), axis=axis, keepdims=True)
    mean = total / ops.maximum(ops.sum(float32(known), axis=axis, keepdims=True), 1.0)
    return ops.where(known, x - mean, 0.0)
