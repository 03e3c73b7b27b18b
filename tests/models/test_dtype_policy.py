"""A Gemma in float16: what its matrices hold, what the stream is, and that it samples and learns as in float32."""

import keras_aha as aha
from keras_aha.training.rollout import split_texts

import keras
import numpy as np
import pytest
from mesh_epochs import OneBatch

TOKENS, ROWS, LENGTH = 8, 32, 64


@pytest.fixture(scope="module", params=("gemma_3", "gemma_4"))
def preset(request, make_policy, tmp_path_factory):
    """Its residual stream is beyond float16, as that of a real Gemma 3 is, from the first block on."""
    policy, folder = make_policy(request.param), str(tmp_path_factory.mktemp(request.param))
    norm = policy.backbone.transformer_layers[0].post_attention_norm
    norm.scale.assign(np.where(np.arange(16) == 0, 1e5, 5e3))
    policy.save_to_preset(folder)
    return folder


def loaded(preset, dtype):
    keras.utils.set_random_seed(0)
    policy = aha.load_policy(preset, dtype=dtype, lora_rank=2)
    for variable in policy.trainable_variables:  # those of A are of any dtype's own draw
        variable.assign(np.random.default_rng(len(variable.path)).normal(0, 0.1, variable.shape))
    return aha.GRPOModel(policy, completion_lengths=1)


def batch(vocabulary_size):
    rng = np.random.default_rng(0)
    token_ids = rng.integers(1, vocabulary_size, (ROWS, TOKENS + LENGTH)).astype("int32")
    log_probs = np.full((ROWS, LENGTH), -1.0, "float32")
    return token_ids, split_texts(token_ids, np.ones_like(token_ids), LENGTH) | {
        "completion_mask": np.ones((ROWS, LENGTH), "float32"),
        "advantages": rng.normal(0, 1, ROWS).astype("float32"),
        "old_log_probs": log_probs,
        "sampler_log_probs": log_probs,
        "temperature": np.ones(ROWS, "float32"),
    }


def update(preset, dtype):
    """Log-probs, and what one update by plain gradients changes, all adapters in one vector."""
    model = loaded(preset, dtype)
    token_ids, rollout = batch(model.policy.backbone.vocabulary_size)
    log_probs = model.log_probs(token_ids, np.ones_like(token_ids), LENGTH)
    model.compile(keras.optimizers.SGD(2.0**10), aha.GRPOLoss(clip_range=1e9))
    before = [np.asarray(variable, "float64") for variable in model.trainable_variables]
    model.fit(OneBatch(rollout), verbose=0)
    after = [np.asarray(variable, "float64") for variable in model.trainable_variables]
    return log_probs, np.concatenate([(new - old).ravel() for new, old in zip(after, before, strict=True)])


def test_float16_learns_as_float32(preset):
    expected, change = update(preset, "float32")
    found, found_change = update(preset, "float16")
    assert np.abs(found - expected).mean() < 5e-3
    cosine = found_change @ change / np.linalg.norm(found_change) / np.linalg.norm(change)
    assert cosine > 0.9995, cosine


@pytest.mark.parametrize("dtype", ("float16", "mixed_float16"))
def test_the_sampler_computes_the_same(preset, dtype):
    model, prompts = loaded(preset, dtype), ["Use 3 4 each once to make 7.\n"]
    stored = {variable.path: str(variable.dtype) for variable in model.policy.backbone.variables}
    matrices = {stored[path] for path in stored if path.endswith(("query/kernel", "embeddings"))}
    assert matrices == {"float32" if dtype == "mixed_float16" else "float16"}
    assert {stored[path] for path in stored if path.endswith("norm/scale") or "lora" in path} == {"float32"}
    token_ids, padding_mask = model.tokenize(prompts)
    completions = model.generate(token_ids, padding_mask, group_size=4, max_completion_length=16)
    token_ids = np.concatenate([np.repeat(token_ids, 4, axis=0), completions.token_ids], axis=1)
    mask = np.arange(16) < completions.lengths[:, None]
    padding_mask = np.concatenate([np.repeat(padding_mask, 4, axis=0), mask], axis=1)
    log_probs = np.where(mask, model.log_probs(token_ids, padding_mask, 16), 0.0)
    np.testing.assert_allclose(completions.log_probs, log_probs, atol=0.02)
