"""Cached decoding equals keras-hub's own forward of Gemma 4, adapters on."""

from keras_aha.decoding import batch, buckets, generate, jitted_steps, row_keys
from keras_aha.decoding.gemma4_decoder import Gemma4Decoder
from keras_aha.models import lora
from keras_aha.models.quantization import QuantizedBackbone

import jax
import keras
import keras_hub
import numpy as np
import pytest

VOCABULARY = 64
WINDOW = 4
PROMPTS = (3, 10)  # lengths, below and above the window
# Everything that a Gemma 4 may have; the last three layers read the keys and values of layers 1 and 2. The caps are so
# small that they bite; layers' own embeddings are wide, because where one is near 0 its norm blows rounding up.
GEMMA_4 = dict(
    vocabulary_size=VOCABULARY,
    image_size=8,
    num_layers=6,
    num_query_heads=4,
    num_key_value_heads=2,
    num_global_key_value_heads=1,
    hidden_dim=16,
    intermediate_dim=32,
    head_dim=8,
    global_head_dim=16,
    sliding_window_size=WINDOW,
    sliding_window_pattern=3,
    num_kv_shared_layers=3,
    use_double_wide_mlp=True,
    hidden_size_per_layer_input=16,
    enable_moe_block=True,
    num_experts=4,
    expert_intermediate_dim=8,
    num_experts_per_token=2,
    local_rope_scaling_factor=2.0,
    global_rope_scaling_factor=8.0,
    global_rope_partial_rotary_factor=0.5,
    attention_logit_soft_cap=0.5,
    final_logit_soft_cap=2.0,
)
PLAIN = dict(
    num_layers=2,
    num_global_key_value_heads=None,
    global_head_dim=None,
    sliding_window_pattern=2,
    num_kv_shared_layers=0,
    hidden_size_per_layer_input=0,
    enable_moe_block=False,
    global_rope_partial_rotary_factor=1.0,
    attention_logit_soft_cap=None,
    final_logit_soft_cap=None,
)


def make_policy(lora_rank=2, **architecture):
    backbone = keras_hub.models.Gemma4Backbone(**{**GEMMA_4, **architecture})
    if lora_rank:
        backbone.enable_lora(lora_rank)
    rng = np.random.default_rng(0)
    for variable in backbone.variables:  # norms too, so that leaving one out would be seen
        variable.assign(rng.normal(0.0, 0.3, variable.shape) + ("scal" in variable.name))
    return keras_hub.models.Gemma4CausalLM(preprocessor=None, backbone=backbone)


@pytest.fixture(scope="module")
def policy():
    return make_policy()


@pytest.fixture(scope="module")
def decoder(policy):
    """One for all tests, because programs are compiled for it."""
    return Gemma4Decoder(policy.backbone)


@pytest.fixture(scope="module")
def prompts():
    """`(token_ids, padding_mask)`, left-padded."""
    length = max(PROMPTS)
    mask = (np.arange(length) >= length - np.array(PROMPTS)[:, None]).astype("int32")
    return np.random.default_rng(1).integers(1, VOCABULARY, mask.shape).astype("int32") * mask, mask


def merged(backbone):
    """The values of its variables, adapters merged."""
    values = {id(variable): value for variable, value in lora.merged_kernels(backbone)}
    return [values.get(id(variable), variable.value) for variable in backbone.variables]


def decode(decoder, prompts, group_size, length, stop_ids=(), weights=None):
    table = np.zeros((2, VOCABULARY), "int8")
    table[0, list(stop_ids)] = table[1] = 1
    return generate(
        decoder,
        weights or merged(decoder.backbone),
        *prompts,
        row_keys(0, 0, np.arange(len(PROMPTS) * group_size)),
        group_size=group_size,
        max_completion_length=length,
        stop_table=table,
    )


def teacher_forced(policy, token_ids, padding_mask, completion_ids, lengths):
    """Log-probs of the completions by keras-hub's model."""
    rows, length = completion_ids.shape
    token_ids = np.hstack([np.repeat(token_ids, rows // len(token_ids), axis=0), completion_ids])
    live = np.arange(length) < lengths[:, None]
    padding_mask = np.hstack([np.repeat(padding_mask, rows // len(padding_mask), axis=0), live]).astype("int32")
    position_ids = np.broadcast_to(np.arange(token_ids.shape[1], dtype="int32"), token_ids.shape)
    inputs = {"token_ids": token_ids, "padding_mask": padding_mask, "position_ids": position_ids}
    logits = np.asarray(jax.jit(policy)(inputs), "float64")[:, -length - 1 : -1]
    log_probs = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
    return np.take_along_axis(log_probs, completion_ids[..., None], axis=-1)[..., 0] * live


def assert_equal_to_the_forward_without_padding(policy, prompts, completions):
    groups = np.split(np.arange(len(completions.lengths)), len(PROMPTS))
    for prompt, mask, rows in zip(*prompts, groups, strict=True):
        token_ids = prompt[None, mask > 0]
        expected = teacher_forced(
            policy, token_ids, np.ones_like(token_ids), completions.token_ids[rows], completions.lengths[rows]
        )
        np.testing.assert_allclose(completions.log_probs[rows], expected, atol=1e-5)


def test_equals_the_forward_of_keras_hub(policy, decoder, prompts):
    completions = decode(decoder, prompts, 2, 3 * WINDOW)
    assert decoder.windows == (WINDOW, WINDOW, None)
    assert_equal_to_the_forward_without_padding(policy, prompts, completions)


def test_without_what_is_optional(prompts):
    policy = make_policy(lora_rank=0, **PLAIN)
    completions = decode(Gemma4Decoder(policy.backbone), prompts, 2, 3 * WINDOW)
    assert_equal_to_the_forward_without_padding(policy, prompts, completions)


@pytest.mark.parametrize("shared", (False, True))
def test_shared_prompts_and_smaller_batches_change_nothing(policy, decoder, prompts, monkeypatch, shared):
    def run():
        return decode(decoder, prompts, 12, 40, stop_ids=range(1, 7))

    monkeypatch.setattr(buckets, "_FEWEST_ROWS", 1000)
    expected = run()
    monkeypatch.undo()
    log_probs = teacher_forced(policy, *prompts, expected.token_ids, expected.lengths)
    np.testing.assert_allclose(expected.log_probs, log_probs, atol=1e-5)

    seen = []
    segment = jitted_steps.segment

    def spy(*arguments, parts):
        state, prompt = arguments[3], arguments[5]
        seen.append((len(state.alive), prompt is not None))
        return segment(*arguments, parts=parts)

    monkeypatch.setattr(jitted_steps, "segment", spy)
    monkeypatch.setattr(batch, "SHARED_PROMPT", 1 if shared else 1000)
    completions = run()
    assert seen == [(24, shared), (6, False)]
    np.testing.assert_array_equal(completions.token_ids, expected.token_ids)
    np.testing.assert_allclose(completions.log_probs, expected.log_probs, atol=1e-5)


@pytest.mark.slow
def test_quantized_layers(policy, decoder, prompts):
    twin = QuantizedBackbone(policy.backbone)
    values = merged(policy.backbone)
    completions = decode(Gemma4Decoder(twin.backbone), prompts, 2, 3 * WINDOW, weights=twin.values(values))
    for position, _, _, _, axis in twin._quantized:
        integers, scale = keras.quantizers.abs_max_quantize(values[position], axis)
        values[position] = integers / scale
    expected = decode(decoder, prompts, 2, 3 * WINDOW, weights=values)  # as above: compiled already
    np.testing.assert_array_equal(completions.token_ids, expected.token_ids)
    np.testing.assert_allclose(completions.log_probs, expected.log_probs, atol=1e-4)


@pytest.mark.parametrize("settings", (dict(use_bidirectional_attention=True), dict(num_kv_shared_layers=2)))
def test_what_cannot_generate_is_refused(settings):
    backbone = make_policy(lora_rank=0, **{**PLAIN, **settings}).backbone
    with pytest.raises(ValueError, match="cannot generate.*Received: backbone="):
        Gemma4Decoder(backbone)
