"""Sampling: from logits to a token and its log-prob."""

import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Sampling(NamedTuple):
    """Which tokens may be drawn. A program is compiled for each; the temperature is a number that programs take.

    Attributes:
        top_k: sample among the k best tokens only.
        top_p: sample among the fewest best tokens whose probabilities add up to `top_p` or more (arXiv:1904.09751).
        min_p: sample among tokens at least `min_p` times as probable as the best one (arXiv:2407.01082).
    """

    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None


FULL_SOFTMAX = Sampling()


def row_keys(seed: int, iteration: int, rows):
    """One key a row, from `(seed, iteration, row)`; `rows` is `(B,)` int32, `seed` any integer."""
    seed = operator.index(seed)
    key, rest = jax.random.key(seed % 2**32), seed >> 32  # which JAX would leave out
    while rest not in (0, -1):
        key, rest = jax.random.fold_in(key, rest % 2**32), rest >> 32
    key = jax.random.fold_in(key, iteration)
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)


def sample(logits, keys, positions, temperature, sampling: Sampling = FULL_SOFTMAX):
    """Draws one token a row.

    It inverts the distribution function in two steps: first it draws a block of about √V tokens, then a token of the
    block. That takes two random numbers a row. The Gumbel-max trick takes V, which for Gemma 3's vocabulary costs a
    CPU more than the 270M model itself.

    Args:
        logits: `(B, V)` float32.
        keys: `(B,)` keys of `row_keys`.
        positions: `(B,)` int32, of the token in its completion, folded into the row's key.
        temperature: float scalar; 0 takes the best token.
        sampling: which tokens may be drawn.

    Returns:
        `(token_ids, log_probs)`, `(B,)` int32 and float32. The log-prob is of the full softmax at `temperature` (at 1
        if that is 0), whatever may be drawn.
    """
    logits = logits / jnp.where(temperature > 0, temperature, 1.0)
    uniform = jax.vmap(lambda key, p: jax.random.uniform(jax.random.fold_in(key, p), (2,)))(keys, positions)
    token_ids = jax.lax.cond(
        temperature > 0,
        lambda: _draw(jax.nn.softmax(_restricted(logits, sampling)), uniform),
        lambda: jnp.argmax(logits, axis=-1),
    )
    # Not by log_softmax: that would be a second array of `(B, V)`, which at Gemma's V is large.
    log_probs = jnp.take_along_axis(logits, token_ids[:, None], axis=-1)[:, 0] - jax.nn.logsumexp(logits, axis=-1)
    return token_ids.astype("int32"), log_probs


def _draw(probabilities, uniform):
    """`(B, V)` and `(B, 2)` → `(B,)`, a token of each row, of one whose probability is not 0."""
    size = probabilities.shape[1]
    width = 1 << (size.bit_length() - 1) // 2  # a power of two, so that no block lies on two devices that share rows
    blocks = jnp.pad(probabilities, [(0, 0), (0, -size % width)]).reshape(len(probabilities), -1, width)
    block = _invert(jnp.sum(blocks, axis=-1), uniform[:, 0])
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    return block * width + _invert(inside, uniform[:, 1])


def _invert(weights, uniform):
    """The first place in each row at which the running sum of `weights` exceeds a share `uniform`, below 1, of all."""
    sums = jnp.cumsum(weights, axis=-1)
    # The share is made a little smaller: rounded up, it could be all of the sum, which nothing exceeds.
    return jnp.argmax(sums > (uniform * (1 - 2**-23))[:, None] * sums[:, -1:], axis=-1)


def _restricted(logits, sampling: Sampling):
    """`logits`, -inf at tokens that may not be drawn: each limit sees the full softmax, and all of them must hold."""
    if sampling == FULL_SOFTMAX:
        return logits
    least = -jnp.inf
    if sampling.top_k is not None:
        best, _ = jax.lax.top_k(logits, min(sampling.top_k, logits.shape[-1]))
        least = best[:, -1:]
    if sampling.top_p is not None:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        probabilities = jax.nn.softmax(ordered)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        fewest = jnp.where(before < sampling.top_p, ordered, jnp.inf)
        least = jnp.maximum(least, jnp.min(fewest, axis=-1, keepdims=True))
    if sampling.min_p is not None:
        least = jnp.maximum(least, jnp.max(logits, axis=-1, keepdims=True) + jnp.log(sampling.min_p))
    return jnp.where(logits >= least, logits, -jnp.inf)
