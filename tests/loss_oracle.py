"""The loss of a whole optimizer step in NumPy float64, straight from the papers, with its exact derivatives.

Completion by completion, without weights, masks or micro-batches. Derivatives are complex steps, see `gemma_oracle`;
where the papers compare numbers, their real parts are compared.
"""

import types

import numpy as np
from gemma_oracle import STEP


def oracle_advantages(rewards, group_size, scale="std", baseline="mean"):
    """`(B,)`, group by group; a NaN is a reward that is missing."""
    known, advantages = rewards[~np.isnan(rewards)], []
    for start in range(0, len(rewards), group_size):
        group = [reward for reward in rewards[start : start + group_size].tolist() if reward == reward]
        for reward in rewards[start : start + group_size].tolist():
            if reward != reward or len(set(group)) < 2:
                advantages.append(0.0)
                continue
            others = (sum(group) - reward) / (len(group) - 1)
            advantage = reward - (others if baseline == "leave_one_out" else sum(group) / len(group))
            scales = {"std": np.std(group) + 1e-6, "batch": np.std(known) + 1e-6, None: 1.0}
            advantages.append(advantage / scales[scale])
    return np.array(advantages)


SETTINGS = dict(clip_range=0.2, kl_coef=0.0, kl_estimator="k3", ratio="token", aggregation="token_mean", delta=None)
SETTINGS |= dict(entropy_coef=0.0, importance_cap=None, ref_log_probs=None, entropy=None, sampler_log_probs=None)
SETTINGS |= dict(surrogate_coef=1.0, teacher_coef=0.0, teacher_kl=None)


def oracle_loss(log_probs, old_log_probs, advantages, lengths, has_signal=None, **given):
    """Arguments are those of `GRPOLoss` and of its call, in float64; `lengths` `(B,)`, 0 for what is left out whole.

    Without `has_signal`, `(B,)`, the surrogate is a mean over all completions, as the KL and the entropy are.

    Returns:
        loss; scale, the sum of the absolute terms of the loss; metrics, sums over tokens; d_log_probs, d_entropy and
        d_teacher_kl, `(B, C)`, the derivatives of the loss.
    """
    assert given.keys() <= SETTINGS.keys()
    c = types.SimpleNamespace(**SETTINGS | given)
    low, high = c.clip_range if isinstance(c.clip_range, tuple) else (c.clip_range, c.clip_range)
    found = types.SimpleNamespace(loss=0.0, scale=0.0, d_log_probs=np.zeros(log_probs.shape))
    found.d_entropy, found.d_teacher_kl = np.zeros((2, *log_probs.shape))
    sums = dict(ratio=0.0, clip_fraction=0.0, kl=0.0, importance_weight=0.0, teacher_kl=0.0)
    lengths, has_signal = np.array(lengths), np.ones(len(lengths), bool) if has_signal is None else has_signal
    for i, length in enumerate(lengths.tolist()):
        if not length:
            continue
        row = i, slice(length)
        divisor, own_divisor = (
            dict(token_mean=sum(x), sequence_mean=np.count_nonzero(x) * length).get(c.aggregation, log_probs.size)
            for x in (lengths, lengths[has_signal])
        )
        moved = log_probs[row] + 1j * STEP * np.eye(length)  # (moved token, token)
        rho = np.exp(moved - old_log_probs[row])
        if c.ratio == "sequence":
            rho = np.prod(rho, axis=-1, keepdims=True) ** (1 / length) * np.ones(length)
        plain, bounded = rho, smaller(larger(rho, 1 - low), 1 + high)
        if c.delta is not None:
            plain = smaller(rho, c.delta)
        surrogate = smaller(plain * advantages[i], bounded * advantages[i])
        share = divisor / own_divisor if has_signal[i] else 0.0
        terms = [-c.surrogate_coef * surrogate * share]
        sums["ratio"] += rho[0].real.sum() * has_signal[i]
        sums["clip_fraction"] += has_signal[i] * np.sum(surrogate[0].real < rho[0].real * advantages[i] - 1e-12)
        if c.delta is not None:
            sums["clip_fraction"] += has_signal[i] * np.sum(surrogate[0].real > rho[0].real * advantages[i] + 1e-12)
        if c.importance_cap is not None:
            importance = np.minimum(np.exp(old_log_probs[row] - c.sampler_log_probs[row]), c.importance_cap)
            sums["importance_weight"] += importance.sum() * has_signal[i]
            terms[0] = terms[0] * importance
        if c.ref_log_probs is not None:
            kl = oracle_kl(moved, c.ref_log_probs[row], c.kl_estimator)
            sums["kl"] += kl[0].real.sum()
            terms.append(c.kl_coef * kl)
        if c.entropy_coef:
            terms.append(-c.entropy_coef * c.entropy[row] * np.ones((length, 1)))
            found.d_entropy[row] = -c.entropy_coef / divisor
        if c.teacher_kl is not None:
            sums["teacher_kl"] += c.teacher_kl[row].sum()
            terms.append(c.teacher_coef * c.teacher_kl[row] * np.ones((length, 1)))
            found.d_teacher_kl[row] = c.teacher_coef / divisor
        found.loss += sum(term[0].real.sum() for term in terms) / divisor
        found.scale += sum(np.abs(term[0].real).sum() for term in terms) / divisor
        found.d_log_probs[row] = sum(term.imag.sum(axis=-1) for term in terms) / STEP / divisor
    found.metrics = sums
    return found


def oracle_kl(log_probs, ref_log_probs, estimator):
    quotient = np.exp(ref_log_probs - log_probs)  # π_ref / π
    k2 = np.log(quotient) ** 2 / 2
    value = {"k1": -np.log(quotient), "k2": k2, "k3": quotient - 1 - np.log(quotient)}[estimator[:2]]
    return value.real + 1j * k2.imag if estimator.endswith("+") else value


def smaller(a, b):
    return np.where(a.real < np.real(b), a, b)


def larger(a, b):
    return np.where(a.real > np.real(b), a, b)
