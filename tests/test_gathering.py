"""Weights that are split along "batch" are gathered in each layer's call, here on a mesh of one device."""

from keras_aha.gemma_parallel import GemmaParallel
from keras_aha.grpo_model import GRPOModel

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


def test_log_probs_of_several_lengths_are_those_of_whole_weights(make_policy, batch):
    expected = GRPOModel(make_policy(lora_rank=2), micro_batch_size=1).log_probs(*batch)
    mesh = keras.distribution.DeviceMesh((1, 1), ("batch", "model"), np.array(jax.devices()[:1]))
    keras.distribution.set_distribution(GemmaParallel(mesh, split_weights=True))
    try:
        policy = make_policy(lora_rank=2)
        query = policy.backbone.get_layer("decoder_block_0").attention.query_dense
        assert "batch" in query._kernel._layout.axes
        found = GRPOModel(policy, micro_batch_size=1).log_probs(*batch)
        assert "call" not in vars(query)  # the layers are as they were
    finally:
        keras.distribution.set_distribution(None)
    np.testing.assert_allclose(found, expected, atol=1e-5)
