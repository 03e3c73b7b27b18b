"""The cache of keys and values: a ring of positions per layer.

Each layer has its own K and V, `(R, K, S, H)`: R rows, K heads, S slots, H head dim. In this order the TPU compiler
updates them in place inside a loop. Position p of the sequence lies in slot p mod S. So a ring as long as the sequence
is a plain array, and in a ring as long as a sliding window each position overwrites the one that leaves the window.

An `index` is one position for all rows, or `(R,)`, one a row.
"""

import jax
import jax.numpy as jnp


def held_positions(size: int, index):
    """The position that each slot of a ring holds once position `index` is written; below 0 if none yet.

    It is `(size,)`, or `(R, size)`.
    """
    index = jnp.expand_dims(index, -1)
    return index - (index - jnp.arange(size)) % size


def write(ring, new, index):
    """`ring` with `new`, `(R, K, 1, H)`, in the slot of position `index`."""
    if jnp.ndim(index):
        return jax.vmap(lambda row, new, index: write(row[None], new[None], index)[0])(ring, new, index)
    return jax.lax.dynamic_update_slice_in_dim(ring, new.astype(ring.dtype), index % ring.shape[2], axis=2)


def from_columns(columns, position, size: int):
    """A ring of `size` slots with what it holds of `columns`, `(R, K, L, H)`, of the positions from `position` on."""
    length = columns.shape[2]
    return jnp.take(columns, (held_positions(size, position + length - 1) - position) % length, axis=2)


def resize(ring, size: int, index):
    """A ring of `size` slots with what it can hold of `ring`, in which `index` positions are written."""
    if size == ring.shape[2]:
        return ring
    return _slots(ring, held_positions(size, index - 1) % ring.shape[2])


def join(prompt, ring, prompt_length: int, size: int, index):
    """One ring of `size` slots from two: `prompt` holds positions below `prompt_length`, and `ring` the later ones."""
    positions = held_positions(size, index - 1)
    early, late = (_slots(x, positions % x.shape[2]) for x in (prompt, ring))
    return jnp.where((positions < prompt_length)[..., None, :, None], early, late)


def _slots(ring, slots):
    """What a ring holds in `slots`, `(S,)` or `(R, S)`."""
    if slots.ndim == 1:
        return jnp.take(ring, slots, axis=2)
    return jnp.take_along_axis(ring, slots[:, None, :, None], axis=2)
