"""Terms of the loss, one number a token: weight, importance ratio, clipped surrogate, KL."""

import math

from keras_aha.losses.checks import check_choice, float32, is_number, keep

from keras import ops

AGGREGATIONS = ("token_mean", "sequence_mean", "fixed_length")
KL_ESTIMATORS = ("k1", "k2", "k3", "k1+", "k3+")
RATIOS = ("token", "sequence")


def aggregation_weights(completion_mask, aggregation="token_mean"):
    """How much each token counts: a loss is Σ weights · values.

        token_mean      wᵢₜ = mᵢₜ / Σⱼ|oⱼ|       every token counts the same (DAPO, arXiv:2503.14476, §3.3)
        sequence_mean   wᵢₜ = mᵢₜ / (B′·|oᵢ|)    every completion counts the same (GRPO, arXiv:2402.03300, eq. 3)
        fixed_length    wᵢₜ = mᵢₜ / (B·C)        no bias by length (Dr. GRPO, arXiv:2503.20783, §3)

    mᵢₜ is the mask, |oᵢ| the number of its true tokens in row i, and B′ the number of rows that have any. Compute the
    weights once for the whole optimizer step and slice them into micro-batches: then the losses and gradients of the
    micro-batches add up to those of the step.

    Args:
        completion_mask: (B, C) bool, of all completions of the step. For "fixed_length" C must be the same in every
            step: the limit on completions.
        aggregation: "token_mean", "sequence_mean" or "fixed_length".

    Returns:
        (B, C) float32, 0 where masked.

    Raises:
        ValueError: for an unknown aggregation.
    """
    check_choice("aggregation", aggregation, AGGREGATIONS)
    mask = float32(completion_mask)
    if aggregation == "token_mean":
        return mask / ops.maximum(ops.sum(mask), 1.0)
    if aggregation == "sequence_mean":
        lengths = ops.sum(mask, axis=1, keepdims=True)
        rows = ops.sum(float32(lengths > 0))
        return mask / ops.maximum(lengths, 1.0) / ops.maximum(rows, 1.0)
    return mask / math.prod(mask.shape)


def importance_ratio(log_probs, old_log_probs, completion_mask, ratio="token"):
    """How much likelier the sampled tokens are by the policy than by the policy that sampled them.

        token      ρᵢₜ = exp(log πᵢₜ − log πᵢₜᵒˡᵈ)              (PPO, arXiv:1707.06347; GRPO, arXiv:2402.03300)
        sequence   ρᵢₜ = exp(1/|oᵢ| Σₛ (log πᵢₛ − log πᵢₛᵒˡᵈ))   (GSPO, arXiv:2507.18071, eq. 7)

    GSPO's ratio is one number a completion, repeated over its tokens; the gradient flows through the mean into all of
    them. Both are exactly 1 where `log_probs` and `old_log_probs` agree.

    Args:
        log_probs: (B, C), of the policy being trained.
        old_log_probs: (B, C), as sampled.
        completion_mask: (B, C) bool. Where it is false, the other arguments may hold anything, NaN included.
        ratio: "token" or "sequence".

    Returns:
        (B, C) float32, 1 where masked.

    Raises:
        ValueError: for an unknown ratio.
    """
    check_choice("ratio", ratio, RATIOS)
    mask = ops.cast(completion_mask, "bool")
    log_ratio = keep(float32(log_probs) - float32(old_log_probs), mask)
    if ratio == "sequence":
        lengths = ops.sum(float32(mask), axis=1, keepdims=True)
        mean_log_ratio = ops.sum(log_ratio, axis=1, keepdims=True) / ops.maximum(lengths, 1.0)
        log_ratio = keep(mean_log_ratio, mask)
    return ops.exp(log_ratio)


def importance_weights(old_log_probs, sampler_log_probs, completion_mask, cap):
    """Weights that correct for a sampler that differs from the policy: int8 weights, a bfloat16 cache, other kernels.

    wᵢₜ = min(exp(log πᵢₜᵒˡᵈ − log πᵢₜˢᵃᵐᵖˡᵉʳ), cap)

    Truncated importance sampling: F. Yao et al., "Your efficient RL framework secretly brings you off-policy RL
    training", https://fengyao.notion.site/off-policy-rl, 2025; truncation is Ionides' (J. Comp. Graph. Stat. 17, 2008).

    Args:
        old_log_probs: (B, C), by the trainer, of the policy that was to sample.
        sampler_log_probs: (B, C), by the sampler.
        completion_mask: (B, C) bool. Where it is false, the other arguments may hold anything, NaN included.
        cap: float ≥ 1.

    Returns:
        (B, C) float32 without gradient, 1 where masked.
    """
    log_weights = keep(float32(old_log_probs) - float32(sampler_log_probs), ops.cast(completion_mask, "bool"))
    return ops.stop_gradient(ops.minimum(ops.exp(log_weights), cap))


def clipped_surrogate(ratio, advantages, clip_range=0.2, delta=None):
    """PPO's objective, to be maximised: a ratio outside of the clip range gains nothing.

    min(min(ρᵢₜ, δ) Âᵢ, clip(ρᵢₜ, 1 − low, 1 + high) Âᵢ)

    PPO, arXiv:1707.06347, eq. 7; high > low ("clip higher") is DAPO's, arXiv:2503.14476, §3.1. δ bounds the ratio of a
    completion that did badly and has become much likelier: two-sided clipping, INTELLECT-2, arXiv:2505.07291, §3.4.

    Args:
        ratio: (B, C) importance ratios.
        advantages: (B,), one a completion.
        clip_range: positive float for both sides, or (low, high).
        delta: float above 1 + high, or None.

    Returns:
        (B, C) float32.

    Raises:
        ValueError: if the clip range is not one or two positive numbers, or delta lies within it.
    """
    low, high = clip_bounds(clip_range, delta)
    ratio, advantages = float32(ratio), float32(advantages)[:, None]
    unclipped = ratio if delta is None else ops.minimum(ratio, delta)
    return ops.minimum(unclipped * advantages, ops.clip(ratio, 1.0 - low, 1.0 + high) * advantages)


def kl_divergence(log_probs, ref_log_probs, estimator="k3"):
    """How far the policy π has moved from the reference, estimated on each sampled token. With r = log πʳᵉᶠ − log π:

    |     | value         | as an estimate of KL(π‖πʳᵉᶠ) | gradient            | its mean over tokens sampled from π |
    |-----|---------------|------------------------------|---------------------|-------------------------------------|
    | k1  | −r             | unbiased, of either sign     | ∇log π              | 0: as a loss it pulls nowhere       |
    | k2  | r²/2           | biased, never negative       | −r ∇log π           | ∇KL(π‖πʳᵉᶠ)                         |
    | k3  | exp(r) − 1 − r | unbiased, never negative     | (1 − exp(r)) ∇log π | ∇KL(πʳᵉᶠ‖π), the other direction    |
    | k1+ | that of k1    | as k1                        | that of k2          | ∇KL(π‖πʳᵉᶠ)                         |
    | k3+ | that of k3    | as k3                        | that of k2          | ∇KL(π‖πʳᵉᶠ)                         |

    If the two log-probs agree, all values, and the gradients of k2 and k3, are exactly 0. k1 is to be logged, k2 is a
    loss for the same divergence, and k3 is GRPO's (arXiv:2402.03300, eq. 4). An estimator with a plus has the gradient
    of k2, so that the value and the gradient belong to the same divergence. Estimators: J. Schulman,
    http://joschu.net/blog/kl-approx.html; means are over the token sampled, given those before it.

    Args:
        log_probs: (B, C), of the policy.
        ref_log_probs: (B, C), of the reference.
        estimator: "k1", "k2", "k3", "k1+" or "k3+".

    Returns:
        (B, C) float32; nothing is masked here.

    Raises:
        ValueError: for an unknown estimator.
    """
    check_choice("estimator", estimator, KL_ESTIMATORS)
    r = float32(ref_log_probs) - float32(log_probs)
    square = ops.square(r) / 2.0
    if estimator == "k2":
        return square
    value = -r if estimator.startswith("k1") else ops.expm1(r) - r
    if estimator.endswith("+"):
        return ops.stop_gradient(value - square) + square
    return value


def clip_bounds(clip_range, delta=None):
    """`(low, high)` of a clip range; raises ValueError if it is none, or if `delta` lies within it."""
    bounds = clip_range if isinstance(clip_range, (tuple, list)) else (clip_range, clip_range)
    if len(bounds) != 2 or not all(is_number(bound) and bound > 0 for bound in bounds):
        raise ValueError(
            f"`clip_range` must be a positive number or a pair (low, high) of them. Received: clip_range={clip_range!r}"
        )
    if delta is not None and not (is_number(delta) and 1.0 + bounds[1] < delta < math.inf):
        raise ValueError(
            f"`delta` must be a number above {1.0 + bounds[1]}, where the clip range ends. Received: delta={delta!r}"
        )
    return bounds
