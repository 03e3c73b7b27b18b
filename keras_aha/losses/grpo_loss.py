"""`GRPOLoss`: the terms of the loss added up."""

import math

from keras_aha.losses import token_terms
from keras_aha.losses.checks import check_choice, float32, is_number, keep

from keras import ops


class GRPOLoss:
    """The GRPO loss of a batch of completions, and what to log about it.

    loss = surrogate_coef · Σᵢₜ −aᵢₜ wᵢₜ min(min(ρᵢₜ, δ) Âᵢ, clip(ρᵢₜ) Âᵢ)
         + Σᵢₜ a′ᵢₜ (kl_coef · KLᵢₜ − entropy_coef · Hᵢₜ + teacher_coef · KLᵢₜ(π‖teacher))

    The surrogate is a mean over the completions of groups whose rewards differ, weighted by a; the KLs and the entropy
    are means over all completions, weighted by a′: they need no reward.

    With one update a rollout the ratio is 1 and the advantages of a group sum to 0. So the loss itself is 0 with
    "sequence_mean", and depends on lengths only with the others. Its gradient is not 0: watch reward and accuracy.

    Args:
        clip_range: positive float, or (low, high): the ratio ρ is clipped to [1 − low, 1 + high].
        kl_coef: float ≥ 0, weight of the KL to the reference.
        kl_estimator: "k1", "k2", "k3", "k1+" or "k3+", see `kl_divergence`.
        ratio: "token" or "sequence", see `importance_ratio`.
        aggregation: "token_mean", "sequence_mean" or "fixed_length", see `aggregation_weights` (a).
        delta: the bound δ of two-sided clipping, or None, see `clipped_surrogate`.
        entropy_coef: float ≥ 0, weight of the bonus for the policy's entropy H, in nats (arXiv:1602.01783, §4).
        importance_cap: float ≥ 1 that truncates the weights w of `importance_weights`, or None: then they are 1.
        teacher_coef: float ≥ 0, weight of the KL to a teacher, see `training.teacher.Teacher`.
        surrogate_coef: float ≥ 0, weight of the surrogate. 0 leaves the rewards out: the teacher alone teaches.

    Raises:
        ValueError: for any other argument, with the choices.
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
        teacher_coef=0.0,
        surrogate_coef=1.0,
    ):
        token_terms.clip_bounds(clip_range, delta)
        numbers = [("kl_coef", kl_coef, 0), ("entropy_coef", entropy_coef, 0), ("teacher_coef", teacher_coef, 0)]
        numbers += [("surrogate_coef", surrogate_coef, 0)]
        if importance_cap is not None:
            numbers.append(("importance_cap", importance_cap, 1))
        for name, number, least in numbers:
            if not (is_number(number) and least <= number < math.inf):
                raise ValueError(f"`{name}` must be a finite number, {least} or more. Received: {name}={number!r}")
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
        self.teacher_coef = teacher_coef
        self.surrogate_coef = surrogate_coef

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
        surrogate_weights=None,
        teacher_kl=None,
    ):
        """Computes the loss of one micro-batch.

        Args:
            log_probs: (B, C), of the policy; the gradient goes here.
            old_log_probs: (B, C), of the policy that sampled.
            advantages: (B,), see `group_advantages`.
            completion_mask: (B, C) bool. Where it is false, the other arguments may hold anything, NaN included.
            weights: (B, C), a′, this micro-batch's slice of the step's `aggregation_weights`.
            ref_log_probs: (B, C), of the reference; may be None if `kl_coef` is 0.
            entropy: (B, C), of the policy, with its gradient; may be None if `entropy_coef` is 0.
            sampler_log_probs: (B, C), by the sampler; may be None if `importance_cap` is.
            surrogate_weights: (B, C), a, as `weights` and 0 in rows that have no advantage; None takes `weights`.
            teacher_kl: (B, C), KL to the teacher, with its gradient; may be None if `teacher_coef` is 0.

        Returns:
            The loss, a float32 scalar, and a dict of float32 scalars. Each is a sum over tokens, so that micro-batches
            add up. Over those of the surrogate: "ratio"; "clip_fraction", the number of tokens without gradient because
            of the clipping; "importance_weight" if there is a cap. Over all: "kl" if `ref_log_probs` is given, and
            "teacher_kl" if that is.

        Raises:
            ValueError: if the numbers that a term needs are None.
        """
        needed = {
            "ref_log_probs": (ref_log_probs, "kl_coef", self.kl_coef),
            "entropy": (entropy, "entropy_coef", self.entropy_coef),
            "sampler_log_probs": (sampler_log_probs, "importance_cap", self.importance_cap),
            "teacher_kl": (teacher_kl, "teacher_coef", self.teacher_coef),
        }
        for name, (value, setting, number) in needed.items():
            if number and value is None:
                raise ValueError(f"`{setting}` needs `{name}`. Received: {name}=None, {setting}={number}")
        mask = ops.cast(completion_mask, "bool")
        # Masked log-probs may hold anything, and 0 · inf is NaN: replace them before they meet an exp.
        log_probs, old_log_probs = keep(log_probs, mask), keep(old_log_probs, mask)
        weights = keep(weights, mask)
        surrogate_weights = weights if surrogate_weights is None else keep(surrogate_weights, mask)
        signal = surrogate_weights > 0

        ratio = token_terms.importance_ratio(log_probs, old_log_probs, signal, self.ratio)
        surrogate = token_terms.clipped_surrogate(ratio, advantages, self.clip_range, self.delta)
        metrics = {"ratio": ratio, "clip_fraction": surrogate != ratio * float32(advantages)[:, None]}
        if self.importance_cap is not None:
            importance = token_terms.importance_weights(old_log_probs, sampler_log_probs, signal, self.importance_cap)
            metrics["importance_weight"] = importance
            surrogate *= importance
        metrics = {name: ops.sum(keep(value, signal)) for name, value in metrics.items()}
        loss = self.surrogate_coef * ops.sum(surrogate_weights * -surrogate)
        if ref_log_probs is not None:
            kl = token_terms.kl_divergence(log_probs, keep(ref_log_probs, mask), self.kl_estimator)
            metrics["kl"] = ops.sum(keep(kl, mask))
            if self.kl_coef:
                loss += self.kl_coef * ops.sum(weights * kl)
        if self.entropy_coef:
            loss -= self.entropy_coef * ops.sum(weights * keep(entropy, mask))
        if teacher_kl is not None:
            teacher_kl = keep(teacher_kl, mask)
            metrics["teacher_kl"] = ops.sum(teacher_kl)
            loss += self.teacher_coef * ops.sum(weights * teacher_kl)
        return loss, metrics

    def get_config(self):
        """Returns the constructor's arguments."""
        return dict(vars(self))
