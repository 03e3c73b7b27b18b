"""Weights that are split along "batch" are gathered in each layer's call, here on a mesh of one device."""

import contextlib
import os
import re

import keras_aha
from keras_aha.distribution.gemma_parallel import GemmaParallel
from keras_aha.training.grpo_model import GRPOModel
from keras_aha.training.rollout import empty_batch

import jax
import keras
import numpy as np
import pytest

LENGTH = 128  # so that there are three lengths, each of them traced


@pytest.fixture
def batch():
    token_ids = np.random.default_rng(0).integers(4, 200, (4, 8 + LENGTH)).astype("int32")
    padding_mask = (np.arange(8 + LENGTH) < 8 + np.array([[20], [50], [100], [128]])).astype("int32")
    return token_ids * padding_mask, padding_mask, LENGTH


@contextlib.contextmanager
def split_weights():
    mesh = keras.distribution.DeviceMesh((1, 1), ("batch", "model"), np.array(jax.devices()[:1]))
    keras.distribution.set_distribution(GemmaParallel(mesh, split_weights=True))
    try:
        yield
    finally:
        keras.distribution.set_distribution(None)


def test_log_probs_of_several_lengths_are_those_of_whole_weights(make_policy, batch):
    expected = GRPOModel(make_policy(lora_rank=2), micro_batch_size=1).log_probs(*batch)
    with split_weights():
        policy = make_policy(lora_rank=2)
        query = policy.backbone.get_layer("decoder_block_0").attention.query_dense
        assert "batch" in query._kernel._layout.axes
        found = GRPOModel(policy, micro_batch_size=1).log_probs(*batch)
        assert "call" not in vars(query)  # the layers are as they were
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_block_that_is_computed_again_gathers_again(make_policy):
    """Each gather begins with a kernel that is said to be split: else XLA keeps what the forward pass has gathered."""
    blocks = ["decoder_block_0", "decoder_block_1"]
    with split_weights(), keras.RematScope(mode="list_of_layers", layer_names=blocks):
        model = GRPOModel(make_policy(lora_rank=2), micro_batch_size=2, completion_lengths=1)
        model.compile("adam")
        variables = model.trainable_variables, model.non_trainable_variables, model.optimizer.variables
        state = jax.tree.map(lambda variable: variable.value, (*variables, model.metrics_variables))
        program = jax.jit(model.train_step).lower(state, empty_batch(4, 8, 32, rows_per_prompt=2)).as_text()
    found = re.findall(r"(%\w+) = sdy.sharding_constraint ([%\w#]+) <@mesh, \[([^>]*)\]", program)
    split = {name for name, _, axes in found if "batch" in axes}
    gathers = [name for name, operand, axes in found if operand in split and "batch" not in axes]
    assert len(gathers) == 1 + 2 * 7 * 2  # of the embeddings, and of each block's seven kernels, twice


@pytest.mark.parametrize(
    "before, after",
    [
        ("", "--xla_tpu_enable_async_collective_fusion=false"),
        ("--a=1", "--a=1 --xla_tpu_enable_async_collective_fusion=false"),
        ("--xla_tpu_enable_async_collective_fusion=true", "--xla_tpu_enable_async_collective_fusion=true"),
    ],
)
def test_gathers_are_not_fused_unless_the_user_says_so(monkeypatch, before, after):
    monkeypatch.setenv("LIBTPU_INIT_ARGS", before)
    keras_aha._set_libtpu_flag()
    assert os.environ["LIBTPU_INIT_ARGS"] == after
