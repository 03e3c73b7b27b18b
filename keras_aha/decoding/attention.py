"""Attention of queries that share heads of keys and values, over a cache (arXiv:2305.13245)."""

import jax.numpy as jnp


def scaled(attention, query):
    """Queries `(B, t, N, H)` times the scale of `attention`, a layer of Gemma, Gemma 2 or Gemma 3."""
    heads, head_dim = query.shape[2:]
    normalize = head_dim if attention.query_head_dim_normalize else attention.hidden_dim // heads
    return query * jnp.asarray(normalize**-0.5, query.dtype)


def attend(attention, query, parts, positions, starts, window: int | None = None):
    """Attention of each query over keys and values that may lie in several arrays.

    A query sees the positions from its row's first to its own, and no more of them than the window.

    Args:
        attention: keras-hub's attention layer, whose soft cap and softmax are used.
        query: `(B, t, N, H)`, scaled.
        parts: `(keys, values, positions)` triples: `(X, K, S, H)` twice, and `(S,)` or `(B, S)` int32, below 0 if there
            is nothing.
            X divides B: row b reads row b // (B / X) of the arrays. So the rows of a group can share their prompt.
        positions: `(t,)` int32, of the queries, or `(B, t)`.
        starts: `(B,)` int32, each row's first position.
        window: in tokens; `None` for no limit.

    Returns:
        `(B, t, N, H)`.
    """
    batch, length, heads, head_dim = query.shape
    kv_heads = parts[0][0].shape[1]
    query = query.reshape(batch, length, kv_heads, -1, head_dim)
    # If a head has one query, a second one, of zeros, keeps it a product of matrices. A TPU computes a product with a
    # vector as sums: for these the cache changes its layout and is padded to four times its bytes.
    query = jnp.pad(query, ((0, 0), (0, 0), (0, 0), (0, length * heads == kv_heads), (0, 0)))
    logits = jnp.concatenate([_logits(query, keys.astype(query.dtype)) for keys, _, _ in parts], axis=-1)
    if attention.logit_soft_cap is not None:
        logits = jnp.tanh(logits / attention.logit_soft_cap) * attention.logit_soft_cap
    rows = jnp.broadcast_shapes(*(held.shape[:-1] for _, _, held in parts))
    held = jnp.concatenate([jnp.broadcast_to(held, (*rows, held.shape[-1])) for _, _, held in parts], axis=-1)
    held, positions = held[..., None, :], positions[..., None]
    visible = (held <= positions) & (held >= starts[:, None, None])
    if window is not None:
        visible &= positions - held < window
    weights = attention.softmax(logits, mask=visible[:, None, None]).astype(logits.dtype)

    output, first = 0.0, 0
    for _, values, _ in parts:
        last = first + values.shape[2]
        output += _output(weights[..., first:last], values.astype(query.dtype))
        first = last
    return output[..., : heads // kv_heads, :].reshape(batch, length, heads, head_dim)


# The products are written like this because of XLA: if they are written otherwise, it transposes the cache on CPU at
# every step.


def _logits(query, keys):
    """`(B, t, K, g, H)` and `(X, K, S, H)` → `(B, K, g, t, S)`; the rows of a group make one product."""
    batch, length, kv_heads, shared, head_dim = query.shape
    query = query.reshape(len(keys), -1, kv_heads, shared, head_dim)
    logits = jnp.einsum("xqkgh,xksh->xkgqs", query, keys)
    if len(keys) == batch:
        return logits
    logits = logits.reshape(len(keys), kv_heads, shared, -1, length, keys.shape[2])
    return jnp.moveaxis(logits, 3, 1).reshape(batch, kv_heads, shared, length, -1)


def _output(weights, values):
    """`(B, K, g, t, S)` and `(X, K, S, H)` → `(B, t, K, g, H)`."""
    batch, kv_heads, shared, length, slots = weights.shape
    groups = len(values)
    weights = jnp.moveaxis(weights.reshape(groups, -1, *weights.shape[1:]), 1, 3)  # (X, K, g, B / X, t, S)
    output = jnp.matmul(weights.reshape(groups, kv_heads, -1, slots), values)
    output = output.reshape(groups, kv_heads, shared, -1, length, values.shape[3])
    return jnp.transpose(output, (0, 3, 4, 1, 2, 5)).reshape(batch, length, kv_heads, shared, -1)
