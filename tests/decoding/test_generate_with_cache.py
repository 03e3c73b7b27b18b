"""Sampling through `call_with_cache` equals each model's own uncached forward."""

import functools
import sys

from keras_aha.decoding import decoder_for, generate, generate_with_cache, row_keys
from keras_aha.decoding.sampling import Sampling
from keras_aha.models import lora

import jax
import keras_hub
import numpy as np
import pytest

VOCABULARY = 32
PROMPT_LENGTHS = (5, 2, 3)
GROUP = 2
LENGTH = 12
SEGMENT = 5
SIZES = dict(vocabulary_size=VOCABULARY, num_layers=2, hidden_dim=16, intermediate_dim=32)
GROUPED = dict(**SIZES, num_query_heads=4, num_key_value_heads=2)
GPT_2 = dict(**SIZES, num_heads=4, max_sequence_length=max(PROMPT_LENGTHS) + LENGTH - 1)  # the last token is not read
SMOL_LM_3 = dict(
    **SIZES,
    num_attention_heads=4,
    num_key_value_heads=2,
    attention_bias=False,
    attention_dropout=0.0,
    rope_layer_enabled_list=[True, False],
    layer_types=["full_attention"] * 2,
    mlp_bias=False,
    layer_norm_epsilon=1e-6,
    max_position_embeddings=64,
    rope_theta=10000.0,
    partial_rotary_factor=1.0,
)
QWEN_3 = dict(**GROUPED, head_dim=4, tie_word_embeddings=False)
FAMILIES = {"Qwen3": QWEN_3, "SmolLM3": SMOL_LM_3, "GPT2": GPT_2}


def make_policy(family, lora_rank=0, **architecture):
    backbone = getattr(keras_hub.models, f"{family}Backbone")(**architecture)
    if lora_rank:
        backbone.enable_lora(lora_rank, ["query", "key", "value", "attention_output", "feedforward_gate_dense"])
    rng = np.random.default_rng(0)
    for variable in backbone.variables:
        if "seed" not in variable.path and "inv_freq" not in variable.path:
            variable.assign(rng.normal(0.0, 0.3, variable.shape))
    return getattr(keras_hub.models, f"{family}CausalLM")(backbone=backbone, preprocessor=None)


def make_prompts(vocabulary_size=VOCABULARY):
    """`(token_ids, padding_mask)`, left-padded."""
    mask = (np.arange(max(PROMPT_LENGTHS))[::-1] < np.array(PROMPT_LENGTHS)[:, None]).astype("int32")
    return np.random.default_rng(1).integers(1, vocabulary_size, mask.shape, "int32") * mask, mask


def make_stop_table(vocabulary_size=VOCABULARY):
    """Three states that tokens drive at random, one in twenty into the last, which stops."""
    rng = np.random.default_rng(2)
    shape = 3, vocabulary_size
    running = np.where(rng.random(shape) < 0.05, 3, rng.integers(0, 3, shape))
    return np.vstack([running, np.full(vocabulary_size, 3)]).astype("int8")


def merged(policy):
    """The backbone's values, adapters multiplied into their kernels."""
    kernels = {id(variable): kernel for variable, kernel in lora.merged_kernels(policy.backbone)}
    return [kernels.get(id(variable), variable.value) for variable in policy.backbone.variables]


def sample(policy, token_ids=None, padding_mask=None, first_row=0, seed=0, length=LENGTH, **settings):
    if token_ids is None:
        token_ids, padding_mask = make_prompts()
    keys = row_keys(seed, 0, first_row + np.arange(len(token_ids) * GROUP))
    settings = dict(stop_table=make_stop_table(), sampling=Sampling(entropy=True)) | settings
    return generate_with_cache(
        policy,
        merged(policy),
        token_ids,
        padding_mask,
        keys,
        group_size=GROUP,
        max_completion_length=length,
        **settings,
    )


def teacher_forced(policy, completions, temperature=1.0):
    """Log-probs, entropies and best tokens, `(B, C)` each, by the uncached forward; no row has padding before it."""
    token_ids, padding_mask = make_prompts()
    rows, length = completions.token_ids.shape
    sequences = np.zeros((rows, token_ids.shape[1] + length), "int32")
    firsts = np.repeat(PROMPT_LENGTHS, GROUP)
    for row, first in enumerate(firsts):
        prompt = token_ids[row // GROUP][padding_mask[row // GROUP] > 0]
        sequences[row, : first + length] = np.concatenate([prompt, completions.token_ids[row]])
    mask = (np.arange(sequences.shape[1]) < (firsts + completions.lengths)[:, None]).astype("int32")

    values = [
        [variable.value for variable in part] for part in (policy.trainable_variables, policy.non_trainable_variables)
    ]
    logits = forward(policy, *values, {"token_ids": sequences[:, :-1], "padding_mask": mask[:, :-1]})
    places = firsts[:, None] - 1 + np.arange(length)
    logits = np.take_along_axis(np.asarray(logits, "float32"), places[..., None], axis=1)
    log_probs = np.asarray(jax.nn.log_softmax(logits / temperature))
    live = np.arange(length) < completions.lengths[:, None]
    return (
        np.take_along_axis(log_probs, completions.token_ids[..., None], axis=2)[..., 0] * live,
        -np.sum(np.exp(log_probs) * log_probs, axis=-1) * live,
        log_probs.argmax(axis=-1) * live,
    )


@functools.partial(jax.jit, static_argnums=0)
def forward(policy, trainable, non_trainable, inputs):
    return policy.stateless_call(trainable, non_trainable, inputs)[0]


@pytest.fixture(scope="module", autouse=True)
def short_segments():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["keras_aha.decoding.generate_with_cache"], "SEGMENT", SEGMENT)
        yield


@pytest.fixture(scope="module")
def llama():
    """Llama 3 with tied embeddings and random adapters."""
    return make_policy("Llama3", lora_rank=2, **GROUPED, tie_word_embeddings=True)


# === Models ===


@pytest.mark.parametrize("family", ["Llama3", *FAMILIES])
def test_equals_the_uncached_forward(family, llama):
    policy = llama if family == "Llama3" else make_policy(family, **FAMILIES[family])
    completions = sample(policy, temperature=0.7)
    log_probs, entropy, _ = teacher_forced(policy, completions, temperature=0.7)
    np.testing.assert_allclose(completions.log_probs, log_probs, atol=1e-5)
    np.testing.assert_allclose(completions.entropy, entropy, atol=1e-5)

    greedy = sample(policy, temperature=0.0)
    log_probs, _, best = teacher_forced(policy, greedy)
    np.testing.assert_array_equal(greedy.token_ids, best)
    np.testing.assert_allclose(greedy.log_probs, log_probs, atol=1e-5)


def test_gemma_draws_what_its_decoder_draws(gemma_2):
    vocabulary_size = gemma_2.backbone.vocabulary_size
    settings = dict(
        group_size=GROUP,
        max_completion_length=LENGTH,
        stop_table=make_stop_table(vocabulary_size),
        sampling=Sampling(top_k=20, entropy=True),
    )
    inputs = *make_prompts(vocabulary_size), row_keys(0, 0, np.arange(6))
    expected = generate(decoder_for(gemma_2.backbone), merged(gemma_2), *inputs, **settings)
    completions = generate_with_cache(gemma_2, merged(gemma_2), *inputs, **settings)
    assert 0 < expected.stopped.sum() < len(expected.stopped)
    for name in completions._fields:
        array, expected_array = getattr(completions, name), getattr(expected, name)
        assert array.dtype == expected_array.dtype
        np.testing.assert_allclose(array, expected_array, atol=1e-5, err_msg=name)


def test_bfloat16():
    policy = make_policy("Llama3", **GROUPED, dtype="mixed_bfloat16")
    completions = sample(policy, sampling=Sampling())
    np.testing.assert_allclose(completions.log_probs, teacher_forced(policy, completions)[0], atol=0.1)
    assert completions.log_probs.dtype == "float32"
    assert completions.entropy is None


# === Rows ===


def test_stops_and_lengths(llama):
    table = make_stop_table()
    completions = sample(llama)
    for ids, log_probs, length, stopped in zip(*completions[:4], strict=True):
        state = expected_length = 0
        while state != 3 and expected_length < LENGTH:
            state = table[state, ids[expected_length]]
            expected_length += 1
        assert (length, stopped) == (expected_length, state == 3)
        assert (log_probs[:length] < 0).all()
        assert not ids[length:].any() and not log_probs[length:].any()
    assert 0 < completions.stopped.sum() < len(completions.stopped)
    assert [array.dtype for array in completions] == ["int32", "float32", "int32", "bool", "float32"]


def test_prompts_do_not_drive_the_stop_table(llama):
    third_token_stops = np.repeat(np.array([[1], [2], [3], [3]], "int8"), VOCABULARY, axis=1)
    np.testing.assert_array_equal(sample(llama, stop_table=third_token_stops).lengths, 3)


def test_rows_of_a_group_differ(llama):
    completions = sample(llama)
    assert len({tuple(ids) for ids in completions.token_ids}) == len(completions.token_ids)


def test_batch_split_changes_nothing(llama):
    """Nor does it matter which the shortest prompt is, at whose end the loop begins."""
    token_ids, padding_mask = make_prompts()
    whole = sample(llama)
    for i in range(len(token_ids)):
        part = sample(llama, token_ids[i : i + 1], padding_mask[i : i + 1], first_row=i * GROUP)
        rows = slice(i * GROUP, (i + 1) * GROUP)
        np.testing.assert_array_equal(part.token_ids, whole.token_ids[rows])
        np.testing.assert_allclose(part.log_probs, whole.log_probs[rows], atol=1e-5)
        np.testing.assert_array_equal(part.stopped, whole.stopped[rows])
    calls = []
    batches = sample(llama, max_rows=2 * GROUP, on_segment=lambda *numbers: calls.append(numbers))
    for array, expected in zip(batches, whole, strict=True):
        np.testing.assert_allclose(array, expected, atol=1e-5)
    assert calls[0][0] > GROUP and calls[-1] == (0, whole.lengths.sum())


def test_on_segment(llama):
    calls = []
    never = np.zeros((4, VOCABULARY), "int8")
    sample(llama, stop_table=never, on_segment=lambda *numbers: calls.append(numbers))
    # All begin where the prompt of two tokens ends: those of five and three say nothing for three tokens and for one.
    assert calls == [(6, GROUP * (2 + 5 + 4)), (6, GROUP * (7 + 10 + 9)), (0, GROUP * 3 * LENGTH)]


# === Weights ===


def test_current_adapters_are_used(llama):
    before = sample(llama)
    compiled = generate_with_cache._segment._cache_size()
    adapter = next(v for v in llama.trainable_variables if v.name.endswith("kernel_b"))
    value = np.asarray(adapter)
    adapter.assign(value + 1.0)
    try:
        after = sample(llama)
        log_probs = teacher_forced(llama, after)[0]
    finally:
        adapter.assign(value)
    assert generate_with_cache._segment._cache_size() == compiled
    assert np.abs(after.log_probs - before.log_probs).max() > 1e-2
    np.testing.assert_allclose(after.log_probs, log_probs, atol=1e-5)
    assert all(layer.lora_enabled for layer in llama._flatten_layers() if getattr(layer, "lora_rank", None))


# === Errors ===

LINEAR = dict(linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8, linear_value_head_dim=8)
UNSUPPORTED = {
    "Qwen3_5": dict(**GROUPED, head_dim=4, **LINEAR),  # most of its layers have a recurrent state
    "GPTNeoX": dict(**SIZES, num_heads=4),
}


@pytest.mark.parametrize("family", UNSUPPORTED)
def test_unsupported_model(family):
    with pytest.raises(ValueError, match=f"^{family}CausalLM cannot be decoded: .* Received: policy=<{family}"):
        sample(make_policy(family, **UNSUPPORTED[family]))


def test_too_long_for_position_embeddings():
    policy = make_policy("GPT2", **GPT_2)
    with pytest.raises(ValueError, match="has embeddings for 16 positions only. Received: .* need 17"):
        sample(policy, length=LENGTH + 1)


def test_prompts_must_be_left_padded(llama):
    token_ids, padding_mask = make_prompts()
    with pytest.raises(ValueError, match="Prompts must be left-padded"):
        sample(llama, token_ids, padding_mask[:, ::-1])
