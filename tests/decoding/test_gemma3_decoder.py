"""Cached decoding equals keras-hub's own forward of Gemma 3, adapters on."""

from keras_aha.decoding import batch, buckets, generate, jitted_steps, row_keys
from keras_aha.decoding.gemma3_decoder import Gemma3Decoder
from keras_aha.models import lora
from keras_aha.models.quantization import QuantizedBackbone
from keras_aha.training.log_probs import completion_log_probs

import jax
import keras
import keras_hub
import numpy as np
import pytest

VOCABULARY = 64
WINDOW = 4
PROMPTS = (3, 10)  # lengths, below and above the window
# Six layers show the pattern of five with a window and one without. The caps are so small that they bite.
GEMMA_3 = dict(
    vocabulary_size=VOCABULARY,
    image_size=8,
    num_layers=6,
    num_query_heads=4,
    num_key_value_heads=2,
    hidden_dim=16,
    intermediate_dim=32,
    head_dim=8,
    use_post_attention_norm=True,
    use_post_ffw_norm=True,
    attention_logit_soft_cap=0.5,
    final_logit_soft_cap=2.0,
    use_sliding_window_attention=True,
    sliding_window_size=WINDOW,
    local_rope_scaling_factor=2.0,
    global_rope_scaling_factor=8.0,
)
PLAIN = dict(
    num_layers=2,
    use_query_key_norm=False,
    use_post_attention_norm=False,
    use_post_ffw_norm=False,
    attention_logit_soft_cap=None,
    final_logit_soft_cap=None,
    use_sliding_window_attention=False,
)


def make_policy(lora_rank=2, **architecture):
    backbone = keras_hub.models.Gemma3Backbone(**{**GEMMA_3, **architecture})
    if lora_rank:
        backbone.enable_lora(lora_rank)
    rng = np.random.default_rng(0)
    for variable in backbone.variables:  # norms too, so that leaving one out would be seen
        variable.assign(rng.normal(0.0, 0.3, variable.shape))
    return keras_hub.models.Gemma3CausalLM(preprocessor=None, backbone=backbone)


@pytest.fixture(scope="module")
def policy():
    return make_policy()


@pytest.fixture(scope="module")
def decoder(policy):
    """One for all tests, because programs are compiled for it."""
    return Gemma3Decoder(policy.backbone)


def merged(backbone):
    """The values of its variables, adapters merged."""
    values = {id(variable): value for variable, value in lora.merged_kernels(backbone)}
    return [values.get(id(variable), variable.value) for variable in backbone.variables]


def left_padded(lengths):
    """Random prompts: `(token_ids, padding_mask)`."""
    length = max(lengths)
    mask = (np.arange(length) >= length - np.array(lengths)[:, None]).astype("int32")
    return np.random.default_rng(1).integers(1, VOCABULARY, mask.shape).astype("int32") * mask, mask


def decode(decoder, weights, prompts, group_size, length, stop_ids=(), **settings):
    table = np.zeros((2, VOCABULARY), "int8")
    table[0, list(stop_ids)] = table[1] = 1
    keys = row_keys(0, 0, np.arange(len(prompts[0]) * group_size))
    return generate(
        decoder,
        weights,
        *prompts,
        keys,
        group_size=group_size,
        max_completion_length=length,
        stop_table=table,
        **settings,
    )


def assert_equal_to_the_forward_without_padding(policy, prompts, completions):
    """Teacher-forced log-probs by keras-hub's model, prompt by prompt."""
    forward = jax.jit(policy)
    groups = np.split(np.arange(len(completions.lengths)), len(prompts[0]))
    for prompt, mask, rows in zip(*prompts, groups, strict=True):
        completion_ids = completions.token_ids[rows]
        token_ids = np.hstack([np.repeat(prompt[None, mask > 0], len(rows), axis=0), completion_ids])
        logits = forward({"token_ids": token_ids, "padding_mask": np.ones_like(token_ids)})
        logits = np.asarray(logits, "float64")[:, -completion_ids.shape[1] - 1 : -1]
        log_probs = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
        expected = np.take_along_axis(log_probs, completion_ids[..., None], axis=-1)[..., 0]
        np.testing.assert_allclose(completions.log_probs[rows], expected, atol=1e-5)


def assert_equal_to_the_padded_forward(policy, prompts, completions):
    """Teacher-forced log-probs as in training."""
    rows, length = completions.token_ids.shape
    live = np.arange(length) < completions.lengths[:, None]
    repeats = rows // len(prompts[0])
    token_ids = np.hstack([np.repeat(prompts[0], repeats, axis=0), completions.token_ids])
    padding_mask = np.hstack([np.repeat(prompts[1], repeats, axis=0), live]).astype("int32")
    log_probs, _ = jax.jit(completion_log_probs, static_argnums=(0, 3))(
        policy, token_ids, padding_mask, length, np.ones(rows, "float32")
    )
    np.testing.assert_allclose(completions.log_probs[live], log_probs[live], atol=1e-5)


def test_equals_the_forward_of_keras_hub(policy, decoder):
    prompts = left_padded(PROMPTS)
    completions = decode(decoder, merged(policy.backbone), prompts, 2, 3 * WINDOW)
    assert decoder.windows == (WINDOW,) * 5 + (None,)
    assert_equal_to_the_forward_without_padding(policy, prompts, completions)
    assert_equal_to_the_padded_forward(policy, prompts, completions)


def test_without_what_is_optional():
    policy = make_policy(lora_rank=0, **PLAIN)
    prompts = left_padded(PROMPTS)
    completions = decode(Gemma3Decoder(policy.backbone), merged(policy.backbone), prompts, 2, 3 * WINDOW)
    assert_equal_to_the_forward_without_padding(policy, prompts, completions)


@pytest.mark.parametrize("shared", (False, True))
def test_shared_prompts_and_smaller_batches_change_nothing(policy, decoder, monkeypatch, shared):
    prompts = left_padded(PROMPTS)

    def run():
        return decode(decoder, merged(policy.backbone), prompts, 12, 40, stop_ids=(1, 2, 3, 4, 5))

    monkeypatch.setattr(buckets, "_FEWEST_ROWS", 1000)
    expected = run()
    assert_equal_to_the_padded_forward(policy, prompts, expected)
    monkeypatch.undo()

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


def test_quantized_layers(policy):
    twin = QuantizedBackbone(policy.backbone)
    weights = twin.values(merged(policy.backbone))
    prompts = left_padded(PROMPTS)
    completions = decode(Gemma3Decoder(twin.backbone), weights, prompts, 1, 3 * WINDOW)
    quantized = keras_hub.models.Gemma3CausalLM(preprocessor=None, backbone=twin.backbone)
    with keras.StatelessScope(list(zip(twin.backbone.variables, weights, strict=True))):
        assert_equal_to_the_padded_forward(quantized, prompts, completions)


def test_bidirectional_attention_is_refused():
    backbone = make_policy(lora_rank=0, **PLAIN, use_bidirectional_attention=True).backbone
    with pytest.raises(ValueError, match="cannot generate.*Received: backbone="):
        Gemma3Decoder(backbone)
