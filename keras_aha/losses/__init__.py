"""All the mathematics of GRPO, as pure batched functions over `keras.ops`, and `GRPOLoss`, which puts them together.

    rewards ─ group_advantages ──────────────┐
    log_probs, old_log_probs ─ importance_ratio ─ clipped_surrogate ─┐
    old_log_probs, sampler_log_probs ─ importance_weights ───────────┤
    log_probs, ref_log_probs ─ kl_divergence ────────────────────────┤
    completion_mask ─ aggregation_weights ───────────────────────────┴─ loss

Shapes: B completions in the batch, C tokens in a completion. `completion_mask` is true at the tokens that the policy
sampled, its stop token included, and false after them. Everything is computed in float32, whatever the inputs' dtype.

The published variants are combinations of independent arguments:

| paper                | `scale` | `ratio`      | `clip_range`   | `aggregation`     | `kl_coef` |
|----------------------|---------|--------------|----------------|-------------------|-----------|
| GRPO, 2402.03300     | "std"   | "token"      | 0.2            | "sequence_mean"   | > 0       |
| Dr. GRPO, 2503.20783 | None    | "token"      | 0.2            | "fixed_length"    | 0         |
| DAPO, 2503.14476     | "std"   | "token"      | (0.2, 0.28)    | "token_mean"      | 0         |
| GSPO, 2507.18071     | "std"   | "sequence"   | (3e-4, 4e-4)   | "sequence_mean"   | 0         |
"""

from keras_aha.losses.advantages import group_advantages, overlong_penalty
from keras_aha.losses.grpo_loss import GRPOLoss
from keras_aha.losses.token_terms import (
    aggregation_weights,
    clipped_surrogate,
    importance_ratio,
    importance_weights,
    kl_divergence,
)

__all__ = [
    "GRPOLoss",
    "aggregation_weights",
    "clipped_surrogate",
    "group_advantages",
    "importance_ratio",
    "importance_weights",
    "kl_divergence",
    "overlong_penalty",
]
