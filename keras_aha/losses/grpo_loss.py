"""`GRPOLoss`: the terms put together."""

import math

from keras_aha.losses import token_terms
from keras_aha.losses.checks import check_choice, float32, is_number, keep

from keras import ops


class GRPOLoss:
    """The GRPO loss of a batch of completions, and what to log about it.

    loss = Σᵢₜ aᵢₜ (−wᵢₜ min(min(ρᵢₜ, δ) Âᵢ, clip(ρᵢₜ) Âᵢ) + kl_coef · KLᵢₜ − entropy_coef · Hᵢₜ)

    With one update a rollout the ratio is 1 and the advantages of a group sum to 0, so the loss itself is 0 under
    "sequence_mean" and shows only the lengths of good and bad completions under the others, while its gradient teaches:
    watch reward and accuracy instead.

    Args:
        clip_range: positive float, or (low, high): the ratio ρ is clipped to [1 − low, 1 + high].
        kl_coef: float ≥ 0, weight of the KL to the reference.
        kl_estimator: "k1", "k2", "k3", "k1+" or "k3+", see `kl_divergence`.
        ratio: "token" or "sequence", see `importance_ratio`.
        aggregation: "token_mean", "sequence_mean" or "fixed_length", see `aggregation_weights` (a).
        delta: the bound δ of two-sided clipping, or None, see `clipped_surrogate`.
        entropy_coef: float ≥ 0, weight of the bonus for the policy's entropy H, in nats (arXiv:1602.01783, §4).
        importance_cap: float ≥ 1 that truncates the weights w of `importance_weights`, or None, where they are 1.

    Raises:
        ValueError: for an argument outside of these, with the choices.
    """

    def __init__(
        self,
        clip_range=0.2,
        kl_coef=0.0,
        kl_estimator="k3",
        ratio="token",
        aggregation="token_mean",
        delta=None,
        entropy_coef=0.0,
        importance_cap=None,
    ):
        token_terms.clip_bounds(clip_range, delta)
        for name, coef in {"kl_coef": kl_coef, "entropy_coef": entropy_coef}.items():
            if not (is_number(coef) and 0.0 <= coef < math.inf):
                raise ValueError(f"`{name}` must be a finite number, 0 or more. Received: {name}={coef!r}")
        if importance_cap is not None and not (is_number(importance_cap) and 1.0 <= importance_cap < math.inf):
            raise ValueError(
                f"`importance_cap` must be a finite number, 1 or more. Received: importance_cap={importance_cap!r}"
            )
        check_choice("kl_estimator", kl_estimator, token_terms.KL_ESTIMATORS)
        check_choice("ratio", ratio, token_terms.RATIOS)
        check_choice("aggregation", aggregation, token_terms.AGGREGATIONS)
        self.clip_range = clip_range
        self.kl_coef = kl_coef
        self.kl_estimator = kl_estimator
        self.ratio = ratio
        self.aggregation = aggregation
        self.delta = delta
        self.entropy_coef = entropy_coef
        self.importance_cap = importance_cap

    def __call__(
        self,
        log_probs,
        old_log_probs,
        advantages,
        completion_mask,
        weights,
        ref_log_probs=None,
        entropy=None,
        sampler_log_probs=None,
    ):
        """Computes the loss of one micro-batch.

        Args:
            log_probs: (B, C), of the policy; the gradient goes here.
            old_log_probs: (B, C), of the policy that sampled.
            advantages: (B,), see `group_advantages`.
            completion_mask: (B, C) bool. What the other arguments hold where it is false (NaN included) has no effect.
            weights: (B, C), this micro-batch's slice of the step's `aggregation_weights`.
            ref_log_probs: (B, C), of the reference; may be None where `kl_coef` is 0.
            entropy: (B, C), of the policy, with its gradient; may be None where `entropy_coef` is 0.
            sampler_log_probs: (B, C), by the sampler; may be None where `importance_cap` is.

        Returns:
            The loss, a float32 scalar, and a dict of float32 scalars, each a sum over the completions' tokens, so that
            micro-batches add up and the step divides by its number of tokens: "ratio"; "clip_fraction", which counts
            the tokens whose gradient the clipping took away; "kl" where `ref_log_probs` is given; and
            "importance_weight" where there is a cap.

        Raises:
            ValueError: if what a term needs is None.
        """
        needed = {
            "ref_log_probs": (ref_log_probs, "kl_coef", self.kl_coef),
            "entropy": (entropy, "entropy_coef", self.entropy_coef),
            "sampler_log_probs": (sampler_log_probs, "importance_cap", self.importance_cap),
        }
        for name, (value, setting, number) in needed.items():
            if number and value is None:
                raise ValueError(f"`{setting}` needs `{name}`. Received: {name}=None, {setting}={number}")
        mask = ops.cast(completion_mask, "bool")
        # Masked log-probs may hold anything, and 0 · inf is NaN: replace them before they meet an exp.
        log_probs, old_log_probs = keep(log_probs, mask), keep(old_log_probs, mask)

        ratio = token_terms.importance_ratio(log_probs, old_log_probs, mask, self.ratio)
        surrogate = token_terms.clipped_surrogate(ratio, advantages, self.clip_range, self.delta)
        metrics = {"ratio": ratio, "clip_fraction": surrogate != ratio * float32(advantages)[:, None]}
        if self.importance_cap is not None:
            importance = token_terms.importance_weights(old_log_probs, sampler_log_probs, mask, self.importance_cap)
            metrics["importance_weight"] = importance
            surrogate *= importance
        values = -surrogate
        if ref_log_probs is not None:
            kl = token_terms.kl_divergence(log_probs, keep(ref_log_probs, mask), self.kl_estimator)
            metrics["kl"] = kl
            if self.kl_coef:
                values += self.kl_coef * kl
        if self.entropy_coef:
            values -= self.entropy_coef * keep(entropy, mask)
        metrics = {name: ops.sum(keep(value, mask)) for name, value in metrics.items()}
        return ops.sum(keep(weights, mask) * values), metrics

    def get_config(self):
        """Returns the constructor's arguments."""
        return dict(vars(self))
