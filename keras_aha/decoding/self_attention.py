"""Attention of tokens that are read at once, in training and of prompts, without ever holding logits of all pairs."""

import functools

from keras_aha.decoding.attention import attend
from keras_aha.distribution.distribute import over_mesh

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash

_LONG = 1024  # queries; with fewer, chunks are not worth their recomputation
_KERNEL = 256  # queries, from which the kernel is used
_CHUNK = 256  # queries whose logits are held at a time
_TILE = 128  # lengths that the kernel takes are multiples of it


def self_attention(attention, query, keys, values, positions, starts, window: int | None = None):
    """Attention of the last t of S tokens, by a kernel on a TPU, and elsewhere by `chunked_attention`.

    The kernel is JAX's Splash attention, after FlashAttention (arXiv:2205.14135). It keeps no logits for the backward
    pass.

    Args:
        attention, window: see `attend`.
        query: `(B, t, N, H)`, scaled.
        keys, values: `(B, S, K, H)`.
        positions: `(S,)` int32, one after another.
        starts: `(B,)` int32, each row's first position.

    Returns:
        `(B, t, N, H)`.
    """
    if _has_kernel() and query.shape[1] >= _KERNEL and query.shape[3] % _TILE == 0:
        settings = dict(soft_cap=attention.logit_soft_cap, window=window)
        kernel = functools.partial(splash_attention, first=positions[0], **settings)
        return over_mesh(kernel, query, keys, values, starts)
    return chunked_attention(attention, query, keys, values, positions, starts, window)


def chunked_attention(attention, query, keys, values, positions, starts, window: int | None = None):
    """The same by `attend`, `at_a_time` queries after another; the backward pass computes a chunk's logits again."""
    length = query.shape[1]
    part, queried = (by_head(keys), by_head(values), positions), positions[-length:]

    def attended(query, positions):
        return attend(attention, query, [part], positions, starts, window)

    if at_a_time(length) == length:
        return attended(query, queried)
    more = -length % _CHUNK
    query = jnp.pad(query, ((0, 0), (0, more), (0, 0), (0, 0)))
    chunks = jnp.moveaxis(query.reshape(len(query), -1, _CHUNK, *query.shape[2:]), 1, 0)
    queried = jnp.pad(queried, (0, more), mode="edge").reshape(-1, _CHUNK)
    output = jax.lax.map(jax.checkpoint(lambda chunk: attended(*chunk)), (chunks, queried))
    return jnp.moveaxis(output, 0, 1).reshape(query.shape)[:, :length]


def at_a_time(queries: int) -> int:
    """Of how many queries `chunked_attention` holds the logits at a time."""
    return queries if queries < _LONG else _CHUNK


def _has_kernel() -> bool:
    """Whether the devices are TPUs that can multiply bfloat16 in a kernel; of v2 and v3 their compiler says no."""
    return jax.default_backend() == "tpu" and jax.devices()[0].device_kind not in ("TPU v2", "TPU v3")


def splash_attention(query, keys, values, starts, *, first, soft_cap, window, interpret=False):
    """As `self_attention`, of keys whose first is at position `first`.

    Both ends are filled up to the tiles of the kernel: at the end with tokens that nobody sees, and at the beginning
    with what belongs to the padding. A token sees what is before it and belongs, as it does, to the text or the
    padding; so every token sees itself at least, without which the kernel would give NaN.
    """
    (rows, length, heads, head_dim), (slots, kv_heads) = query.shape, keys.shape[1:3]
    after = -length % _TILE
    before = -(slots + after) % _TILE
    query = jnp.pad(query, ((0, 0), (0, after), (0, 0), (0, 0)))
    keys, values = (jnp.pad(x, ((0, 0), (before, after), (0, 0), (0, 0))).astype(query.dtype) for x in (keys, values))
    queries, slots = query.shape[1], keys.shape[1]
    is_text = (first + jnp.arange(slots) - before >= starts[:, None]).astype("int32")

    if window is None:
        mask = splash.CausalMask((queries, slots), offset=slots - queries)
    else:
        mask = splash.LocalMask((queries, slots), (window - 1, 0), offset=slots - queries)
    kernel = splash.make_splash_mqa_single_device(
        splash.MultiHeadMask([mask] * (heads // kv_heads)),
        block_sizes=_block_sizes(queries, slots),
        attn_logits_soft_cap=soft_cap,
        interpret=interpret,
    )
    query = jnp.moveaxis(query.reshape(rows, queries, kv_heads, -1, head_dim), 1, 3)  # (B, K, N / K, t, H)
    of_row = jax.vmap(kernel, (0, 0, 0, None))
    segments = splash.SegmentIds(is_text[:, -queries:], is_text)
    with jax.named_scope(f"window={window or slots}"):  # for the planner, which counts operations by the program's text
        output = jax.vmap(of_row)(query, by_head(keys), by_head(values), segments)
    return jnp.moveaxis(output, 3, 1)[:, :length].reshape(rows, length, heads, head_dim)


def _block_sizes(queries, slots):
    q, kv = (next(size for size in (512, 256, _TILE) if length % size == 0) for length in (queries, slots))
    return splash.BlockSizes(q, kv, kv, q, kv, kv, q, kv)


def by_head(x):
    """`(B, t, K, H)` → `(B, K, t, H)`."""
    return jnp.swapaxes(x, 1, 2)
