"""Checks of numbers: sampler against trainer, the head's float32, and one device against all."""

import contextlib

from keras_aha import decoding
from keras_aha.decoding.stop_table import stop_table
from keras_aha.models.head import float32_logits
from keras_aha.planner.checks.check_record import CheckFinding
from keras_aha.planner.checks.trial import Trial
from keras_aha.training.policy_sampler import PolicySampler

import jax
import jax.numpy as jnp
import keras
import numpy as np

# Products' dtype → mean and largest difference of a log-prob, in nats. bfloat16 and float16: three to four times what
# the real Gemma 3 270M differs by from float32 (LOG.md, "float16 on a real model"), as sampler and trainer both do.
_GAPS = {"float32": (1e-4, 1e-3), "float16": (3e-3, 0.05), "bfloat16": (0.035, 0.5)}
_EPSILONS = {"float32": 2**-20, "float16": 2**-11, "bfloat16": 2**-8}  # of a product, by the sum of its terms
_TOKENS = 4096  # of the vocabulary, that the head is compared for


def products_in(trial: Trial) -> str:
    """The dtype that products have the precision of: on TPUs float32 is multiplied as bfloat16, on GPUs as TF32."""
    dtype = trial.model.policy.backbone.token_embedding.compute_dtype
    if dtype != "float32":
        return dtype
    return {"tpu": "bfloat16", "gpu": "float16"}.get(jax.default_backend(), dtype)


def sampler_and_trainer(name: str, trial: Trial) -> CheckFinding:
    """Log-probs of the same tokens: by the sampler as it drew them, and by the trainer."""
    completions, log_probs = trial.sampled.value, np.asarray(trial.log_probs.value)
    gaps = np.abs(log_probs - completions.log_probs)
    mean, largest = float(gaps.sum() / completions.lengths.sum()), float(gaps.max())
    bounds = _GAPS[products_in(trial)]
    return CheckFinding(
        name,
        f"within {bounds[0]:g} nats a token, {bounds[1]:g} at most",
        f"{mean:.2g} nats a token, {largest:.2g} at most",
        "right" if mean < bounds[0] and largest < bounds[1] else "wrong",
        dict(mean=mean, largest=largest, mean_bound=bounds[0], largest_bound=bounds[1], products_in=products_in(trial)),
    )


def head(name: str, trial: Trial) -> CheckFinding:
    """Logits against a product in float64 of the same inputs, and whether they are rounded to a shorter dtype."""
    embedding = trial.model.policy.backbone.token_embedding
    dtype, size = embedding.compute_dtype, embedding.output_dim
    hidden = jax.random.normal(jax.random.key(1), (8, size)).astype(dtype)
    logits = np.asarray(float32_logits(embedding, hidden)[:, :_TOKENS])
    table = embedding.embeddings if embedding.tie_weights else jnp.swapaxes(embedding.reverse_embeddings, 0, 1)
    table, hidden = (np.asarray(jnp.asarray(x, dtype)).astype("float64") for x in (table[:_TOKENS], hidden))
    expected, terms, cap = hidden @ table.T, np.abs(hidden) @ np.abs(table.T), embedding.logit_soft_cap
    expected = expected if cap is None else np.tanh(expected / cap) * cap
    error = float((np.abs(logits - expected) / terms).max())
    short = "float16" if dtype == "float16" else "bfloat16"
    rounded = float((logits == np.asarray(jnp.asarray(logits).astype(short).astype("float32"))).mean())
    bound = _EPSILONS["float32" if dtype != "float32" else products_in(trial)]
    return CheckFinding(
        name,
        f"error < {bound:.1g}, not rounded to {short}",
        f"error {error:.1g}, {rounded:.0%} of logits rounded",
        "right" if logits.dtype == "float32" and error < bound and rounded < 0.01 else "wrong",
        dict(error=error, error_bound=bound, rounded_share=rounded, logits_dtype=str(logits.dtype)),
    )


def one_device_and_all(name: str, trial: Trial) -> CheckFinding:
    """The same keys on one device: which share of tokens is the same."""
    count = jax.device_count()
    if count == 1:
        return CheckFinding(name, "the same tokens", "one device", "nothing to compare")
    completions, alone = trial.sampled.value, _on_one_device(trial)
    same = float((completions.token_ids == alone.token_ids).all(axis=1).mean())
    first = float((completions.token_ids == alone.token_ids)[:, 0].mean())
    exact = products_in(trial) == "float32"
    return CheckFinding(
        name,
        "the same tokens" if exact else "the same tokens but for near ties",
        f"same: {same:.0%} of completions, {first:.0%} of first tokens",
        ("right" if same == 1 else "wrong") if exact else "no prediction",
        dict(devices=count, same_completions=same, same_first_tokens=first),
    )


def _on_one_device(trial: Trial) -> decoding.Completions:
    """What `Trial.sampled` draws, by the first device alone."""
    policy = trial.model.policy
    values = jax.device_put(PolicySampler(policy).merged_values(), jax.local_devices()[0])
    before = keras.distribution.distribution()
    with contextlib.ExitStack() as stack:
        stack.callback(keras.distribution.set_distribution, before)
        keras.distribution.set_distribution(None)
        rows = np.arange(len(trial.prompt_ids) * trial.group_size)
        tokenizer, size = policy.preprocessor.tokenizer, policy.backbone.vocabulary_size
        return decoding.generate(
            decoding.decoder_for(policy.backbone),
            values,
            trial.prompt_ids,
            trial.prompt_mask,
            decoding.row_keys(0, 0, rows),
            group_size=trial.group_size,
            max_completion_length=trial.completion_length,
            stop_table=stop_table(tokenizer, size, [tokenizer.end_token_id]),
        )
