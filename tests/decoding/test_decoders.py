"""Each architecture's decoder draws what keras-hub's own forward says, adapters on."""

from keras_aha.decoding import batch, decoder_for, generate, jitted_steps, row_keys
from keras_aha.models.abstract_backbone import scale_queries
from keras_aha.models.quantization import QuantizedBackbone
from keras_aha.training.log_probs import completion_log_probs
from keras_aha.training.policy_sampler import PolicySampler

import jax
import keras
import numpy as np
import pytest
from sampling_oracle import assert_log_probs, drawn, forward_log_probs, uniforms

WINDOW, GROUP, LENGTH = 4, 12, 24
NEAR_TIE = 2e-5  # of a random number from one that draws another token
NO_CAPS = dict(attention_logit_soft_cap=None, final_logit_soft_cap=None)
PLAIN_3 = dict(**NO_CAPS, num_layers=2, use_query_key_norm=False, use_post_attention_norm=False)
PLAIN_3 |= dict(use_post_ffw_norm=False, use_sliding_window_attention=False)
PLAIN_4 = dict(**NO_CAPS, num_layers=2, num_global_key_value_heads=None, global_head_dim=None, num_kv_shared_layers=0)
PLAIN_4 |= dict(sliding_window_pattern=2, hidden_size_per_layer_input=0, enable_moe_block=False)
PLAIN_4 |= dict(global_rope_partial_rotary_factor=1.0)
# Shape, arguments of the backbone, and the windows of the layers that have a cache.
ARCHITECTURES = {
    "Gemma": ("gemma", {}, (None, None)),
    "Gemma 2": ("gemma_2", {}, (WINDOW, None)),
    "a window longer than all": ("gemma_2", dict(sliding_window_size=100), (100, None)),
    "queries scaled by the hidden dim": ("gemma_2", dict(query_head_dim_normalize=False), (WINDOW, None)),
    "Gemma 3": ("gemma_3", dict(attention_logit_soft_cap=0.5), (WINDOW,) * 5 + (None,)),
    "Gemma 3 without what is optional": ("gemma_3", PLAIN_3, (None, None)),
    "Gemma 4": ("gemma_4", {}, (WINDOW, WINDOW, None)),
    "Gemma 4 without what is optional": ("gemma_4", PLAIN_4, (WINDOW, None)),
}


@pytest.fixture(scope="module")
def prompts():
    """`(token_ids, padding_mask)` of prompts of 3 and 10 tokens, below and above the window."""
    mask = (np.arange(10) >= np.array([[7], [0]])).astype("int32")
    return np.random.default_rng(1).integers(1, 180, mask.shape).astype("int32") * mask, mask


def sample(decoder, weights, prompts, group_size=GROUP, length=LENGTH):
    size = decoder.backbone.vocabulary_size
    table = np.zeros((2, size), "int8")
    table[0, np.random.default_rng(2).permutation(size)[: size // 8]] = table[1] = 1
    keys = row_keys(0, 0, np.arange(len(prompts[0]) * group_size))
    settings = dict(group_size=group_size, max_completion_length=length, stop_table=table)
    return generate(decoder, weights, *prompts, keys, **settings), keys


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_draws_what_the_forward_of_keras_hub_says(name, make_policy, prompts, monkeypatch):
    """Groups share their prompts until most rows have died; the rest move to a smaller batch, with their prompts."""
    shape, architecture, windows = ARCHITECTURES[name]
    policy = make_policy(shape, lora_rank=2, **architecture)
    scale_queries(policy.backbone)
    decoder = decoder_for(policy.backbone)
    assert decoder.windows == windows
    assert decoder.ring_sizes(50) == tuple(min(window or 50, 50) for window in windows)
    seen, segment = [], jitted_steps.segment

    def spy(*arguments, parts):
        state, prompt = arguments[3], arguments[5]
        seen.append((len(state.alive), prompt is not None))
        return segment(*arguments, parts=parts)

    monkeypatch.setattr(jitted_steps, "segment", spy)
    monkeypatch.setattr(batch, "SHARED_PROMPT", 1)
    completions, keys = sample(decoder, PolicySampler(policy).merged_values(), prompts)
    assert seen == [(24, True), (6, False)] and completions.lengths.max() > 3 * WINDOW
    log_probs = forward_log_probs(policy, prompts, completions)
    assert_log_probs(completions, log_probs)
    token_ids, margins = drawn(np.exp(log_probs), uniforms(keys, LENGTH))
    sure = (np.arange(LENGTH) < completions.lengths[:, None]) & (margins > NEAR_TIE)
    np.testing.assert_array_equal(token_ids[sure], completions.token_ids[sure])


@pytest.mark.parametrize("shape", ("gemma_2", "gemma_3", "gemma_4"))
def test_log_probs_are_those_of_training(shape, make_policy, prompts):
    """With prompts left-padded as they are, in a cache of each row's own."""
    policy = make_policy(shape, lora_rank=2)
    completions, _ = sample(decoder_for(policy.backbone), PolicySampler(policy).merged_values(), prompts, 2)
    live = np.arange(LENGTH) < completions.lengths[:, None]
    texts = *prompts, completions.token_ids
    expected, _ = jax.jit(completion_log_probs, static_argnums=0)(policy, *texts, np.ones(len(live), "float32"))
    np.testing.assert_allclose(completions.log_probs[live], expected[live], atol=1e-5)


@pytest.mark.parametrize("shape", ("gemma_3", "gemma_4"))
def test_quantized_layers(shape, make_policy, prompts):
    """They compute with int8 numbers times their scales, as the float model does with the products."""
    policy = make_policy(shape)
    twin = QuantizedBackbone(policy.backbone)
    values = [variable.value for variable in policy.backbone.variables]
    completions, _ = sample(decoder_for(twin.backbone), twin.values(values), prompts, 1, 3 * WINDOW)
    for position, *_, axes in twin._quantized:
        integers, scale = keras.quantizers.abs_max_quantize(values[position], axes)
        values[position] = integers / scale
    assert_log_probs(completions, forward_log_probs(policy, prompts, completions, weights=values), atol=1e-4)


@pytest.mark.parametrize(
    "shape, arguments",
    [
        ("gemma_3", PLAIN_3 | dict(use_bidirectional_attention=True)),  # as in EmbeddingGemma
        ("gemma_4", PLAIN_4 | dict(use_bidirectional_attention=True)),
        ("gemma_4", PLAIN_4 | dict(num_kv_shared_layers=2)),  # an assistant, whose layers have no keys
    ],
)
def test_what_cannot_generate_is_refused(shape, arguments, make_policy):
    backbone = make_policy(shape, **arguments).backbone
    with pytest.raises(ValueError, match="cannot generate.*Received: backbone="):
        decoder_for(backbone)
