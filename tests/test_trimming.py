from keras_aha.trimming import trimmed

import jax
import jax.numpy as jnp
import numpy as np
import pytest

PROMPT, LENGTH = 3, 128


def make_batch(needed):
    """Four rows, the longest of which is trained on up to `needed` tokens."""
    rng = np.random.default_rng(0)
    lengths = np.array([needed, needed // 2, 0, needed])
    mask = np.arange(LENGTH) < lengths[:, None]
    return {
        "token_ids": rng.integers(1, 9, (4, PROMPT + LENGTH)),
        "completion_mask": mask.astype("float32"),
        "advantages": rng.normal(size=4).astype("float32"),
    }


@pytest.mark.parametrize("needed, cut", [(0, None), (1, 32), (32, 32), (33, 64), (64, 64), (65, 128), (128, 128)])
def test_is_cut_to_the_shortest_length_that_holds_all(needed, cut):
    seen = []

    def function(batch):
        shapes = {name: x.shape for name, x in batch.items()}
        length = shapes["completion_mask"][1]
        assert shapes == {"token_ids": (4, PROMPT + length), "completion_mask": (4, length), "advantages": (4,)}
        jax.debug.callback(lambda: seen.append(length))
        mask = batch["completion_mask"]
        return {"sum": jnp.sum(mask * batch["token_ids"][:, PROMPT:]), "last": batch["advantages"] * mask[:, 0]}

    batch = make_batch(needed)
    result = jax.jit(lambda batch: trimmed(function, batch))(batch)
    jax.effects_barrier()
    assert seen == ([] if cut is None else [cut])  # and of the others nothing is computed
    assert result["sum"] == np.sum(batch["completion_mask"] * batch["token_ids"][:, PROMPT:])
    np.testing.assert_array_equal(result["last"], batch["advantages"] * batch["completion_mask"][:, 0])


def test_short_completions_have_one_length():
    batch = {name: x if x.ndim < 2 else x[:, : x.shape[1] - LENGTH + 40] for name, x in make_batch(3).items()}
    shapes = []
    jax.eval_shape(lambda batch: trimmed(lambda b: shapes.append(b["completion_mask"].shape[1]) or 0.0, batch), batch)
    assert set(shapes) == {40}
