from keras_aha.planner.hlo import matrix_flops
from keras_aha.training.micro_batches import fold_trimmed

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import AS_FOR_USERS

PROMPT, LENGTH = 3, 128
COMPLETIONS = ("completion_ids", "completion_mask")


def make_batches(*needed, length=LENGTH):
    """Micro-batches of four rows, the longest of which is trained on up to `needed` tokens."""
    rng = np.random.default_rng(0)
    lengths = np.array([[n, n // 2, 0, n] for n in needed])
    return {
        "prompt_ids": rng.integers(1, 9, (len(needed), 2, PROMPT)),
        "completion_ids": rng.integers(1, 9, (len(needed), 4, length)),
        "completion_mask": (np.arange(length) < lengths[..., None]).astype("float32"),
        "advantages": rng.normal(size=(len(needed), 4)).astype("float32"),
    }


def fold(batches, programs=3):
    """By micro-batch what is trained on, summed; and in which order and how long they were."""
    seen = []

    def function(carry, i, batch):
        length = batch["completion_mask"].shape[1]
        shapes = {name: x.shape for name, x in batch.items()}
        assert shapes == {"prompt_ids": (2, PROMPT), "advantages": (4,)} | dict.fromkeys(COMPLETIONS, (4, length))
        jax.debug.callback(lambda i: seen.append((int(i), length)), i, ordered=True)
        mask = batch["completion_mask"]
        return {
            "sums": carry["sums"].at[i].set(jnp.sum(mask * batch["completion_ids"]) + 1000 * batch["prompt_ids"][1, 0]),
            "last": carry["last"] + batch["advantages"] * mask[:, 0],
        }

    zeros = {"sums": jnp.zeros(len(batches["prompt_ids"])), "last": jnp.zeros(4)}
    carry = jax.jit(lambda batches: fold_trimmed(function, zeros, batches, programs))(batches)
    jax.effects_barrier()
    return carry, seen


def expected_sums(batches):
    return (
        np.sum(batches["completion_mask"] * batches["completion_ids"], axis=(1, 2))
        + 1000 * batches["prompt_ids"][:, 1, 0]
    )


@pytest.mark.parametrize("needed, cut", [(0, None), (32, 32), (33, 64), (65, 128)])
def test_is_cut_to_the_shortest_length_that_holds_all(needed, cut):
    batches = make_batches(needed)
    carry, seen = fold(batches)
    assert seen == ([] if cut is None else [(0, cut)])  # and of the others nothing is computed
    np.testing.assert_array_equal(carry["sums"], expected_sums(batches) if cut else [0])
    np.testing.assert_array_equal(carry["last"], (batches["advantages"] * batches["completion_mask"][..., 0])[0])


def test_each_has_its_own_length():
    batches = make_batches(100, 3, 0, 40, 7, 128)
    carry, seen = fold(batches)
    assert seen == [(1, 32), (4, 32), (3, 64), (0, 128), (5, 128)]
    mask = batches["completion_mask"]
    np.testing.assert_array_equal(carry["sums"], expected_sums(batches) * mask.any(axis=(1, 2)))
    np.testing.assert_allclose(carry["last"], np.sum(batches["advantages"] * mask[..., 0], axis=0), rtol=1e-6)
    whole, seen = fold(batches, programs=1)
    assert seen == [(i, 128) for i in (1, 4, 3, 0, 5)]  # of one program nothing is cut
    np.testing.assert_array_equal(whole["sums"], carry["sums"])
    assert fold(make_batches(3, 40, length=40))[1] == [(0, 40), (1, 40)]  # nor of short completions


@pytest.mark.parametrize("needed", ((LENGTH,), (LENGTH, 30)))
def test_only_one_length_is_computed(needed):
    """Also of one micro-batch, whose number XLA knows."""
    batches = make_batches(*needed)

    def product(total, i, batch):
        x = batch["completion_mask"]
        return total + jnp.sum((x.T @ x) * batch["advantages"][0])

    compiled = jax.jit(lambda batches: fold_trimmed(product, 0.0, batches, 3)).lower(batches).compile(AS_FOR_USERS)
    assert matrix_flops(compiled.as_text(), turns=1) == 2 * 4 * LENGTH**2
