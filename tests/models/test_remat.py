"""A large model's blocks are computed again in the backward pass, and the gradient is the same.

The CPU's compiler undoes it, so its memory says nothing; benchmarks/memory.py has that of a TPU.
"""

from keras_aha.models import policy as module
from keras_aha.models.policy import load_policy
from keras_aha.training.log_probs import completion_log_probs

import jax
import keras
import numpy as np
import pytest

ROWS, LENGTH, PROMPT = 2, 6, 4


def gradient_of(policy):
    rng = np.random.default_rng(0)
    prompt_ids, completion_ids = (
        rng.integers(4, 200, shape).astype("int32") for shape in ((1, PROMPT), (ROWS, LENGTH))
    )
    texts = prompt_ids, np.ones_like(prompt_ids), completion_ids
    trainable, frozen = policy.trainable_variables, policy.non_trainable_variables

    def loss(values, rest):
        with keras.StatelessScope(list(zip([*trainable, *frozen], [*values, *rest], strict=True))):
            log_probs, _ = completion_log_probs(policy, *texts, np.ones(ROWS, "float32"))
        return log_probs.mean()

    arguments = [variable.value for variable in trainable], [variable.value for variable in frozen]
    blocks = str(jax.make_jaxpr(jax.grad(loss))(*arguments)).count("remat")
    return jax.jit(jax.grad(loss)), arguments, blocks


@pytest.mark.parametrize(
    "shape, architecture",
    [("gemma_2", {}), ("gemma_4", dict(sliding_window_pattern=2, num_kv_shared_layers=1))],  # keys of another block
)
def test_large_models_are_computed_again(shape, architecture, make_policy, tmp_path, monkeypatch):
    made = make_policy(shape, num_layers=3, **architecture)
    made.save_to_preset(str(tmp_path / "preset"))
    preset = str(tmp_path / "preset")
    assert module.rematerialised_blocks(preset, "float32", None) == []
    policy = load_policy(preset, lora_rank=2)
    paths = [variable.path for variable in policy.variables]
    plain, arguments, blocks = gradient_of(policy)
    assert blocks == 0

    monkeypatch.setattr(module, "_REMAT_FROM", made.count_params())
    assert module.rematerialised_blocks(preset, "float32", None) == [f"decoder_block_{i}" for i in range(3)]
    again, _, blocks = gradient_of(policy := load_policy(preset, lora_rank=2))
    assert blocks == 3 and [variable.path for variable in policy.variables] == paths  # so a checkpoint is of both
    arguments = [value + 0.1 for value in arguments[0]], arguments[1]  # B begins at 0
    for value, expected in zip(again(*arguments), plain(*arguments), strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-6 * max(1.0, np.abs(expected).max()))
