from keras_aha.distribution.checksums import checksums, combined

import jax.numpy as jnp
import numpy as np
import pytest


def test_worked_out_by_hand():
    assert checksums([np.array([[1, 2], [3, 4]], "int32")]) == [1 * 1 + 3 * 2 + 5 * 3 + 7 * 4]
    assert checksums([np.float32(1.0), np.array([-1], "int8")]) == [0x3F800000, 255]
    assert checksums([np.array([-1, -1], "int32")]) == [(4 * (2**32 - 1)) % 2**32]
    assert combined([1, 2, 3]) == 1 + 6 + 15
    assert combined(checksums([])) == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int32", "bool"])
def test_any_bit_counts(dtype):
    array = np.asarray(jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 5)) > 0).astype(dtype))
    [whole] = checksums([array])
    for byte in range(array.nbytes):
        for bit in [0] if dtype == "bool" else range(8):
            flipped = array.copy()
            flipped.view("uint8").reshape(-1)[byte] ^= 1 << bit
            assert checksums([flipped]) != [whole]


def test_order_and_place_count():
    array = np.arange(6, dtype="float32")
    assert len(set(checksums([array, array[::-1], np.append(array, 0) + np.append(0, array)]))) == 3
    assert combined(checksums([array, array[::-1]])) != combined(checksums([array[::-1], array]))
