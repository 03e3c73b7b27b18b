"""The cache of keys and values: a ring of positions per layer.

Each layer has its own K and V, `(R, K, S, H)`: R rows, K heads, S slots, H head dim. In this order the TPU compiler
updates them in place inside a loop. Position p of the sequence lies in slot p mod S. So a ring as long as the sequence
is a plain array, and in a ring as long as a sliding window each position overwrites the one that leaves the window.
"""

import jax
import jax.numpy as jnp


def held_positions(size: int, index):
    """The position that each slot of a ring holds once position `index` is written, `(size,)`; below 0 if none yet."""
    return index - (index - jnp.arange(size)) % size


def write(ring, new, index):
    """`ring` with `new`, `(R, K, 1, H)`, in the slot of position `index`."""
    return jax.lax.dynamic_update_slice_in_dim(ring, new.astype(ring.dtype), index % ring.shape[2], axis=2)


def from_columns(columns, position, size: int):
    """A ring of `size` slots with what it holds of `columns`, `(R, K, L, H)`, of the positions from `position` on."""
    length = columns.shape[2]
    return jnp.take(columns, (held_positions(size, position + length - 1) - position) % length, axis=2)


def resize(ring, size: int, index):
    """A ring of `size` slots with what it can hold of `ring`, in which `index` positions are written."""
    if size == ring.shape[2]:
        return ring
    return jnp.take(ring, held_positions(size, index - 1) % ring.shape[2], axis=2)


def join(prompt, ring, prompt_length: int, size: int, index):
    """One ring of `size` slots from two: `prompt` holds positions below `prompt_length`, and `ring` the later ones."""
    positions = held_positions(size, index - 1)
    early = jnp.take(prompt, positions % prompt.shape[2], axis=2)
    late = jnp.take(ring, positions % ring.shape[2], axis=2)
    return jnp.where((positions < prompt_length)[:, None], early, late)
