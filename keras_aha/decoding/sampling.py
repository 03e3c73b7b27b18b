"""From logits to a token and its log-prob."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Sampling(NamedTuple):
    """How tokens are drawn: what a program is compiled for, beside the temperature, which it takes as a number.

    Attributes:
        top_k: sample among the k best tokens only.
        top_p: sample among the fewest best tokens whose probabilities add up to `top_p` or more (arXiv:1904.09751).
        min_p: sample among tokens at least `min_p` times as probable as the best one (arXiv:2407.01082).
        entropy: whether to return the entropy of the full softmax, from which a token is drawn, too.
    """

    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    entropy: bool = False


FULL_SOFTMAX = Sampling()


def row_keys(seed: int, iteration: int, rows):
    """One key a row, from `(seed, iteration, row)`; `rows` is `(B,)` int32."""
    key = jax.random.fold_in(jax.random.key(seed), iteration)
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)


def sample(logits, keys, positions, temperature, sampling: Sampling = FULL_SOFTMAX):
    """Draws one token a row by the Gumbel-max trick.

    Args:
        logits: `(B, V)` float32.
        keys: `(B,)` keys of `row_keys`.
        positions: `(B,)` int32, of the token in its completion, folded into the row's key.
        temperature: float scalar; 0 takes the best token.
        sampling: which tokens may be drawn.

    Returns:
        `(token_ids, log_probs, entropy)`, `(B,)` int32 and twice float32; entropy is 0 where it is not asked for. The
        log-prob is of the full softmax at `temperature` (at 1 where it is 0), whatever may be drawn.
    """
    logits = logits / jnp.where(temperature > 0, temperature, 1.0)
    log_probs = jax.nn.log_softmax(logits)
    noise = jax.vmap(lambda key, p: jax.random.gumbel(jax.random.fold_in(key, p), logits.shape[1:]))(keys, positions)
    candidates = jnp.where(_allowed(log_probs, sampling), log_probs, -jnp.inf)
    token_ids = jnp.argmax(candidates + jnp.where(temperature > 0, noise, 0.0), axis=-1).astype("int32")
    entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1) if sampling.entropy else jnp.zeros(len(logits))
    return token_ids, jnp.take_along_axis(log_probs, token_ids[:, None], axis=-1)[:, 0], entropy


def _allowed(log_probs, sampling: Sampling):
    """Which tokens may be drawn, `(B, V)` bool: each limit sees the full softmax, and all of them must hold."""
    allowed = jnp.ones(log_probs.shape, bool)
    if sampling.top_k is not None:
        allowed &= log_probs >= jax.lax.top_k(log_probs, sampling.top_k)[0][:, -1:]
    if sampling.top_p is not None:
        ordered = jnp.sort(log_probs, axis=-1, descending=True)
        before = jnp.cumsum(jnp.exp(ordered), axis=-1) - jnp.exp(ordered)
        allowed &= log_probs >= jnp.min(jnp.where(before < sampling.top_p, ordered, jnp.inf), axis=-1, keepdims=True)
    if sampling.min_p is not None:
        allowed &= log_probs >= jnp.max(log_probs, axis=-1, keepdims=True) + jnp.log(sampling.min_p)
    return allowed
