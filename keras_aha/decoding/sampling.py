"""From logits to a token and its log-prob."""

import jax
import jax.numpy as jnp


def row_keys(seed: int, iteration: int, rows):
    """One key a row, from `(seed, iteration, row)`; `rows` is `(B,)` int32."""
    key = jax.random.fold_in(jax.random.key(seed), iteration)
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)


def sample(logits, keys, position, temperature, top_k: int | None = None, top_p: float | None = None):
    """Draws one token a row by the Gumbel-max trick.

    Args:
        logits: `(B, V)` float32.
        keys: `(B,)` keys of `row_keys`.
        position: int32 scalar, folded into each key.
        temperature: float scalar; 0 takes the best token.
        top_k: sample among the k best tokens only.
        top_p: sample among the fewest best tokens whose probabilities add up to `top_p` or more.

    Returns:
        `(token_ids, log_probs)`, `(B,)` int32 and float32. The log-prob is of the full softmax at `temperature` (at 1
        where it is 0), also under `top_k` and `top_p`.
    """
    log_probs = jax.nn.log_softmax(logits / jnp.where(temperature > 0, temperature, 1.0))
    allowed = log_probs
    if top_k is not None:
        allowed = jnp.where(log_probs >= jax.lax.top_k(log_probs, top_k)[0][:, -1:], allowed, -jnp.inf)
    if top_p is not None:
        ordered = jnp.sort(log_probs, axis=-1, descending=True)
        before = jnp.cumsum(jnp.exp(ordered), axis=-1) - jnp.exp(ordered)
        least = jnp.min(jnp.where(before < top_p, ordered, jnp.inf), axis=-1, keepdims=True)
        allowed = jnp.where(log_probs >= least, allowed, -jnp.inf)
    noise = jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, position), logits.shape[1:]))(keys)
    token_ids = jnp.argmax(allowed + jnp.where(temperature > 0, noise, 0.0), axis=-1).astype("int32")
    return token_ids, jnp.take_along_axis(log_probs, token_ids[:, None], axis=-1)[:, 0]
