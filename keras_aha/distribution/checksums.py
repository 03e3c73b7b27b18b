"""Checksums of arrays, the same however they lie on devices."""

import math

import jax
import jax.numpy as jnp
import numpy as np

_BITS = {1: "uint8", 2: "uint16", 4: "uint32"}


def checksums(arrays: list) -> list[int]:
    """A number below 2³² for each array. One bit that differs always changes it; nearly all other differences do too.

    Element i, its bits as an unsigned integer, counts (2 i + 1) times, modulo 2³². Such a sum does not depend on which
    device computes which part of it. All processes must call this.
    """
    return np.asarray(_checksums(list(arrays))).tolist()


def combined(numbers: list[int]) -> int:
    """One number below 2³² for several, in their order."""
    return sum((2 * i + 1) * number for i, number in enumerate(numbers)) % 2**32


# One program for all arrays: if they are split over processes, several programs would wait for each other.
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
