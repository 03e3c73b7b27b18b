"""All the mathematics of GRPO, as pure batched functions over `keras.ops`, and `GRPOLoss`, which puts them together.

    rewards ─ group_advantages ──────────────┐
    log_probs, old_log_probs ─ importance_ratio ─ clipped_surrogate ─┐
    log_probs, ref_log_probs ─ kl_divergence ────────────────────────┤
    completion_mask ─ aggregation_weights ───────────────────────────┴─ loss

Shapes: B completions in the batch, C tokens in a completion. `completion_mask` is true on the tokens that the policy
sampled, its stop token included, and false after them. Whatever comes in, everything is computed in float32.

The published variants are independent arguments:

| paper                | `scale` | `ratio`      | `clip_range`   | `aggregation`     | `kl_coef` |
|----------------------|---------|--------------|----------------|-------------------|-----------|
| GRPO, 2402.03300     | "std"   | "token"      | 0.2            | "sequence_mean"   | > 0       |
| Dr. GRPO, 2503.20783 | None    | "token"      | 0.2            | "fixed_length"    | 0         |
| DAPO, 2503.14476     | "std"   | "token"      | (0.2, 0.28)    | "token_mean"      | 0         |
| GSPO, 2507.18071     | "std"   | "sequence"   | (3e-4, 4e-4)   | "sequence_mean"   | 0         |
"""

import math

from keras import ops

SCALES = ("std", None)
RATIOS = ("token", "sequence")
AGGREGATIONS = ("token_mean", "sequence_mean", "fixed_length")
KL_ESTIMATORS = ("k1", "k2", "k3")
EPSILON = 1e-6


def group_advantages(rewards, group_size, scale="std"):
    """How much better each completion did than the others of its prompt.

    Âᵢ = (rᵢ − mean(r)) / (std(r) + ε)   over the G completions of one prompt; without the divisor for `scale=None`

    The standard deviation is the population's (divided by G) and ε = 1e-6. A group whose rewards are all equal teaches
    nothing: its advantages are exactly 0.

    GRPO, arXiv:2402.03300, §4.1.2; `scale=None` is Dr. GRPO's, arXiv:2503.20783, §3.

    Args:
        rewards: (B,), the completions of one prompt in adjacent rows.
        group_size: int G ≥ 2, a divisor of B.
        scale: "std" or None.

    Returns:
        (B,) float32.

    Raises:
        ValueError: for a group of one, a B that G does not divide, an unknown scale.
    """
    _check_choice("scale", scale, SCALES)
    rewards = _float32(rewards)
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
    advantages = groups - ops.mean(groups, axis=1, keepdims=True)
    if scale == "std":
        advantages /= ops.std(groups, axis=1, keepdims=True) + EPSILON
    # The mean of equal numbers can miss them by a rounding error, which the division would blow up.
    all_equal = ops.all(groups == groups[:, :1], axis=1, keepdims=True)
    return ops.reshape(ops.where(all_equal, 0.0, advantages), (-1,))


def aggregation_weights(completion_mask, aggregation="token_mean"):
    """How much each token counts, so that a loss is Σ weights · values.

    token_mean      wᵢₜ = mᵢₜ / Σⱼ|oⱼ|       every token counts the same (DAPO, arXiv:2503.14476, §3.3)
    sequence_mean   wᵢₜ = mᵢₜ / (B′·|oᵢ|)    every completion counts the same (GRPO, arXiv:2402.03300, eq. 3)
    fixed_length    wᵢₜ = mᵢₜ / (B·C)        no bias by length (Dr. GRPO, arXiv:2503.20783, §3)

    mᵢₜ is the mask, |oᵢ| the number of its true tokens in row i, and B′ the number of rows that have any (a completion
    that was masked out whole is no completion). Compute the weights once for the whole optimizer step and slice them
    into micro-batches: the losses and gradients of the micro-batches then add up to those of the step.

    Args:
        completion_mask: (B, C) bool, of all completions of the step. For "fixed_length" C must be the same in every
            step (the limit on completions), or the divisor would follow the longest completion.
        aggregation: "token_mean", "sequence_mean" or "fixed_length".

    Returns:
        (B, C) float32, 0 where masked.

    Raises:
        ValueError: for an unknown aggregation.
    """
    _check_choice("aggregation", aggregation, AGGREGATIONS)
    mask = _float32(completion_mask)
    if aggregation == "token_mean":
        return mask / ops.maximum(ops.sum(mask), 1.0)
    if aggregation == "sequence_mean":
        lengths = ops.sum(mask, axis=1, keepdims=True)
        rows = ops.sum(_float32(lengths > 0))
        return mask / ops.maximum(lengths, 1.0) / ops.maximum(rows, 1.0)
    return mask / math.prod(mask.shape)


def importance_ratio(log_probs, old_log_probs, completion_mask, ratio="token"):
    """How much likelier the policy makes what was sampled than the policy that sampled it.

    token      ρᵢₜ = exp(log πᵢₜ − log πᵢₜᵒˡᵈ)              (PPO, arXiv:1707.06347; GRPO, arXiv:2402.03300)
    sequence   ρᵢₜ = exp(1/|oᵢ| Σₛ (log πᵢₛ − log πᵢₛᵒˡᵈ))   (GSPO, arXiv:2507.18071, eq. 7)

    GSPO's ratio is one number a completion, repeated over its tokens; the gradient flows through the mean into all of
    them. Both are exactly 1 where `log_probs` and `old_log_probs` agree.

    Args:
        log_probs: (B, C), of the policy being trained.
        old_log_probs: (B, C), as sampled.
        completion_mask: (B, C) bool. What the arguments hold where it is false (NaN included) has no effect.
        ratio: "token" or "sequence".

    Returns:
        (B, C) float32, 1 where masked.

    Raises:
        ValueError: for an unknown ratio.
    """
    _check_choice("ratio", ratio, RATIOS)
    mask = ops.cast(completion_mask, "bool")
    log_ratio = _keep(_float32(log_probs) - _float32(old_log_probs), mask)
    if ratio == "sequence":
        lengths = ops.sum(_float32(mask), axis=1, keepdims=True)
        mean_log_ratio = ops.sum(log_ratio, axis=1, keepdims=True) / ops.maximum(lengths, 1.0)
        log_ratio = _keep(mean_log_ratio, mask)
    return ops.exp(log_ratio)


def clipped_surrogate(ratio, advantages, clip_range=0.2):
    """PPO's pessimistic objective, to be maximised: no reward for leaving the range around the old policy.

    min(ρᵢₜ Âᵢ, clip(ρᵢₜ, 1 − low, 1 + high) Âᵢ)

    PPO, arXiv:1707.06347, eq. 7; high > low ("clip higher") is DAPO's, arXiv:2503.14476, §3.1.

    Args:
        ratio: (B, C) importance ratios.
        advantages: (B,), one a completion.
        clip_range: positive float for both sides, or (low, high).

    Returns:
        (B, C) float32.

    Raises:
        ValueError: for a clip range that is not one or two positive numbers.
    """
    low, high = _clip_bounds(clip_range)
    ratio, advantages = _float32(ratio), _float32(advantages)[:, None]
    return ops.minimum(ratio * advantages, ops.clip(ratio, 1.0 - low, 1.0 + high) * advantages)


def kl_divergence(log_probs, ref_log_probs, estimator="k3"):
    """How far the policy π has moved from the reference, estimated on each sampled token. With r = log πʳᵉᶠ − log π:

    |    | value          | as an estimate of KL(π‖πʳᵉᶠ) | gradient            | its mean over tokens sampled from π |
    |----|----------------|------------------------------|---------------------|-------------------------------------|
    | k1 | −r             | unbiased, of either sign     | ∇log π              | 0: as a loss it pulls nowhere       |
    | k2 | r²/2           | biased, never negative       | −r ∇log π           | ∇KL(π‖πʳᵉᶠ)                         |
    | k3 | exp(r) − 1 − r | unbiased, never negative     | (1 − exp(r)) ∇log π | ∇KL(πʳᵉᶠ‖π), the other direction    |

    All values, and the gradients of k2 and k3, are exactly 0 where the two log-probs agree. So k1 is for watching, k2
    for penalising what k1 watches, and k3 is GRPO's (arXiv:2402.03300, eq. 4). Estimators: J. Schulman,
    http://joschu.net/blog/kl-approx.html; means are over the token sampled, given those before it.

    Args:
        log_probs: (B, C), of the policy.
        ref_log_probs: (B, C), of the reference.
        estimator: "k1", "k2" or "k3".

    Returns:
        (B, C) float32; nothing is masked here.

    Raises:
        ValueError: for an unknown estimator.
    """
    _check_choice("estimator", estimator, KL_ESTIMATORS)
    r = _float32(ref_log_probs) - _float32(log_probs)
    if estimator == "k1":
        return -r
    if estimator == "k2":
        return ops.square(r) / 2.0
    return ops.expm1(r) - r


class GRPOLoss:
    """The GRPO loss of a batch of completions, and what to log about it.

    loss = Σᵢₜ wᵢₜ (−min(ρᵢₜ Âᵢ, clip(ρᵢₜ) Âᵢ) + kl_coef · KLᵢₜ)

    With one update a rollout the ratio is 1 and the advantages of a group sum to 0, so the loss itself is 0 under
    "sequence_mean" and shows only the lengths of good and bad completions under the others, while its gradient teaches:
    watch reward and accuracy instead.

    Args:
        clip_range: positive float, or (low, high): the ratio is clipped to [1 − low, 1 + high].
        kl_coef: float ≥ 0, weight of the KL to the reference.
        kl_estimator: "k1", "k2" or "k3", see `kl_divergence`.
        ratio: "token" or "sequence", see `importance_ratio`.
        aggregation: "token_mean", "sequence_mean" or "fixed_length", see `aggregation_weights`.

    Raises:
        ValueError: for an argument outside of these, with the choices.
    """

    def __init__(self, clip_range=0.2, kl_coef=0.0, kl_estimator="k3", ratio="token", aggregation="token_mean"):
        _clip_bounds(clip_range)
        if not (_is_number(kl_coef) and 0.0 <= kl_coef < math.inf):
            raise ValueError(f"`kl_coef` must be a finite number, 0 or more. Received: kl_coef={kl_coef!r}")
        _check_choice("kl_estimator", kl_estimator, KL_ESTIMATORS)
        _check_choice("ratio", ratio, RATIOS)
        _check_choice("aggregation", aggregation, AGGREGATIONS)
        self.clip_range = clip_range
        self.kl_coef = kl_coef
        self.kl_estimator = kl_estimator
        self.ratio = ratio
        self.aggregation = aggregation

    def __call__(self, log_probs, old_log_probs, advantages, completion_mask, weights, ref_log_probs=None):
        """Computes the loss of one micro-batch.

        Args:
            log_probs: (B, C), of the policy; the gradient goes here.
            old_log_probs: (B, C), as sampled.
            advantages: (B,), see `group_advantages`.
            completion_mask: (B, C) bool. What the log-probs hold where it is false (NaN included) has no effect.
            weights: (B, C), this micro-batch's slice of the step's `aggregation_weights`.
            ref_log_probs: (B, C), of the reference; may be None where `kl_coef` is 0.

        Returns:
            The loss, a float32 scalar, and a dict of float32 scalars, each a sum over the completions' tokens, so that
            micro-batches add up and the step divides by its number of tokens: "ratio"; "clip_fraction", which counts
            the tokens whose gradient the clipping took away; and "kl" where `ref_log_probs` is given.

        Raises:
            ValueError: if `kl_coef` is not 0 and `ref_log_probs` is None.
        """
        if self.kl_coef and ref_log_probs is None:
            raise ValueError(f"The KL needs `ref_log_probs`. Received: ref_log_probs=None, kl_coef={self.kl_coef}")
        mask = ops.cast(completion_mask, "bool")
        # Masked log-probs may hold anything, and 0 · inf is NaN: replace them before they meet an exp.
        log_probs, old_log_probs = _keep(log_probs, mask), _keep(old_log_probs, mask)

        ratio = importance_ratio(log_probs, old_log_probs, mask, self.ratio)
        surrogate = clipped_surrogate(ratio, advantages, self.clip_range)
        clipped = surrogate < ratio * _float32(advantages)[:, None]
        values = -surrogate
        metrics = {"ratio": ratio, "clip_fraction": clipped}
        if ref_log_probs is not None:
            kl = kl_divergence(log_probs, _keep(ref_log_probs, mask), self.kl_estimator)
            metrics["kl"] = kl
            if self.kl_coef:
                values += self.kl_coef * kl
        metrics = {name: ops.sum(_keep(value, mask)) for name, value in metrics.items()}
        return ops.sum(_keep(weights, mask) * values), metrics

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            "clip_range": self.clip_range,
            "kl_coef": self.kl_coef,
            "kl_estimator": self.kl_estimator,
            "ratio": self.ratio,
            "aggregation": self.aggregation,
        }


def _float32(x):
    return ops.convert_to_tensor(x, dtype="float32")


def _keep(x, mask):
    return ops.where(mask, _float32(x), 0.0)


def _is_number(x):
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def _check_choice(name, value, choices):
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"`{name}` must be one of {listed}. Received: {name}={value!r}")


def _clip_bounds(clip_range):
    bounds = clip_range if isinstance(clip_range, (tuple, list)) else (clip_range, clip_range)
    if len(bounds) != 2 or not all(_is_number(bound) and bound > 0 for bound in bounds):
        raise ValueError(
            f"`clip_range` must be a positive number or a pair (low, high) of them. Received: clip_range={clip_range!r}"
        )
    return bounds
