"""Rings against a model of them in plain Python, where a position's value is a number that tells which one it is."""

from keras_aha.decoding import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

SIZES = (1, 3, 4, 7)
LONGEST = 15
INDICES = jnp.arange(LONGEST)  # positions that are written


def held_by(size, index):
    """The position in each slot once all those below `index` are written one after the other; `None` if none is."""
    slots = [None] * size
    for position in range(index):
        slots[position % size] = position
    return slots


def ring_of(positions, nothing=-1):
    """`(2, 1, S, 1)`; of position p the rows have p and p + 1000."""
    slots = np.array([nothing if position is None else position for position in positions], "float32")
    return np.stack([slots, slots + 1000])[:, None, :, None]


def all_rings(size, first=0):
    """The ring at each index, `(LONGEST, 2, 1, size, 1)`, which positions below `first` have never been in."""
    rings = [[p if p is not None and p >= first else None for p in held_by(size, index)] for index in range(LONGEST)]
    return np.stack([ring_of(ring) for ring in rings])


def assert_holds(ring, known):
    """That the slots of `ring` hold the positions `known`, if they are not `None`, and numbers in any case."""
    known = [(slot, position) for slot, position in enumerate(known) if position is not None]
    for slot, position in known:
        np.testing.assert_array_equal(ring[:, 0, slot, 0], [position, position + 1000])
    assert np.isfinite(ring).all()
    return len(known)


@pytest.mark.parametrize("size", SIZES)
def test_write_and_held_positions(size):
    held = np.asarray(jax.vmap(lambda index: cache.held_positions(size, index))(INDICES))
    write, ring = jax.jit(cache.write), ring_of([None] * size)
    for index in range(LONGEST):
        np.testing.assert_array_equal(ring, all_rings(size)[index])
        ring = write(ring, ring_of([index]).astype("float64"), index)
        assert ring.dtype == "float32"  # the ring's
        for position, slot in zip(held[index], held_by(size, index + 1), strict=True):
            assert position == slot if slot is not None else position < 0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("length", (1, 4, 6))
def test_from_columns(length, size):
    """Of a prompt that begins anywhere, the ring holds the last `size` tokens in the slots of their positions."""
    columns = jnp.stack([jnp.asarray(ring_of(range(first, first + length))) for first in range(10)])
    of_first = jax.vmap(lambda columns, first: cache.from_columns(columns, first, size))
    for first, ring in enumerate(np.asarray(of_first(columns, jnp.arange(10)))):
        known = [p if p is not None and p >= first else None for p in held_by(size, first + length)]
        assert assert_holds(ring, known) == min(size, length)


@pytest.mark.parametrize("after", SIZES)
@pytest.mark.parametrize("before", SIZES)
def test_resize(before, after):
    """What both the old ring and the new one have room for stays, whether it grows or shrinks."""
    rings = jax.vmap(lambda ring, index: cache.resize(ring, after, index))(all_rings(before), INDICES)
    for index, ring in enumerate(np.asarray(rings)):
        known = [p if p is not None and p >= index - before else None for p in held_by(after, index)]
        assert assert_holds(ring, known) == min(before, after, index)


@pytest.mark.parametrize("after", SIZES)
@pytest.mark.parametrize("prompt_size, size", [(5, 10), (5, 4), (3, 7), (1, 1)])
def test_join(prompt_size, size, after):
    """A prompt of 5 tokens, of which its ring holds the last `prompt_size`, and completions in a ring of their own."""
    length = 5
    prompt = ring_of(held_by(prompt_size, length))
    join = jax.vmap(lambda ring, index: cache.join(prompt, ring, length, after, index))
    rings = join(all_rings(size, first=length), INDICES)
    for index in range(length, LONGEST):
        held = [p for p in range(length - prompt_size, length)] + [p for p in range(length, index) if p >= index - size]
        known = [p if p in held else None for p in held_by(after, index)]
        assert_holds(np.asarray(rings[index]), known)
        if size >= index - length and prompt_size == length:
            assert None not in known or index < after  # nothing was forgotten that there is room for
