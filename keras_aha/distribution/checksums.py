"""Checksums of arrays, the same however they lie on devices."""

import math

import jax
import jax.numpy as jnp
import numpy as np

_BITS = {1: "uint8", 2: "uint16", 4: "uint32"}


def checksums(arrays: list) -> list[int]:
    """A number below 2³² for each array; one bit that differs always changes it, and so does nearly all else.

    Element i counts (2 i + 1) times, as an unsigned integer of its bits, modulo 2³². Sums of integers do not depend on
    their order, nor on who computes which part of them. With several processes all of them must call this.
    """
    return np.asarray(_checksums(list(arrays))).tolist()


def combined(numbers: list[int]) -> int:
    """One number below 2³² for several, in their order."""
    return sum((2 * i + 1) * number for i, number in enumerate(numbers)) % 2**32


# One program for all of them: where arrays are split over processes, each of several would wait for the others'.
@jax.jit
def _checksums(arrays):
    return jnp.array([_checksum(array) for array in arrays], "uint32")


def _checksum(array):
    array = jnp.asarray(array)
    array = array.astype("uint8") if array.dtype == bool else array
    bits = jax.lax.bitcast_convert_type(array, _BITS[array.dtype.itemsize]).astype("uint32")
    # The flat index, made of those along the axes: flattening would move an array that is split over devices.
    index = jnp.zeros(array.shape, "uint32")
    for axis in range(array.ndim):
        stride = math.prod(array.shape[axis + 1 :]) % 2**32
        index += jnp.uint32(stride) * jax.lax.broadcasted_iota("uint32", array.shape, axis)
    return jnp.sum(bits * (2 * index + 1), dtype="uint32")
