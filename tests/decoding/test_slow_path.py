"""Sampling through `call_with_cache` equals each model's own uncached forward."""

import gc
import weakref

from keras_aha.callbacks.compile_counter import CompileCounter
from keras_aha.decoding import decoder_for, generate, generate_with_cache, row_keys, slow_path
from keras_aha.decoding.sampling import Sampling
from keras_aha.models import lora
from keras_aha.training.policy_sampler import PolicySampler

import keras_hub
import numpy as np
import pytest
from sampling_oracle import assert_log_probs, forward_log_probs
from tiny_models import randomize

PROMPT_LENGTHS = (5, 2, 3)
GROUP = 2
LENGTH = 12
SIZES = dict(vocabulary_size=32, num_layers=2, hidden_dim=16, intermediate_dim=32)
GPT_2 = dict(num_heads=4, max_sequence_length=max(PROMPT_LENGTHS) + LENGTH - 1)  # the last token is not read


def make_other(family, **architecture):
    """A random policy of a family that `tiny_models.py` does not have."""
    backbone = getattr(keras_hub.models, f"{family}Backbone")(**SIZES, **architecture)
    randomize([v for v in backbone.variables if "seed" not in v.path], 0)
    return getattr(keras_hub.models, f"{family}CausalLM")(backbone=backbone, preprocessor=None)


def make_prompts(size):
    """`(token_ids, padding_mask)`, left-padded."""
    mask = (np.arange(max(PROMPT_LENGTHS))[::-1] < np.array(PROMPT_LENGTHS)[:, None]).astype("int32")
    return np.random.default_rng(1).integers(1, size, mask.shape, "int32") * mask, mask


def make_stop_table(size):
    """Three states that tokens drive at random, one in twenty into the last, which stops."""
    rng = np.random.default_rng(2)
    running = np.where(rng.random((3, size)) < 0.05, 3, rng.integers(0, 3, (3, size)))
    return np.vstack([running, np.full(size, 3)]).astype("int8")


def sample(policy, prompts=None, first_row=0, length=LENGTH, **settings):
    size = policy.backbone.vocabulary_size
    token_ids, padding_mask = prompts or make_prompts(size)
    values = {id(variable): kernel for variable, kernel in lora.merged_kernels(policy.backbone)}
    weights = [values.get(id(variable), variable.value) for variable in policy.backbone.variables]
    keys = row_keys(0, 0, first_row + np.arange(len(token_ids) * GROUP))
    settings = dict(group_size=GROUP, max_completion_length=length, stop_table=make_stop_table(size)) | settings
    return generate_with_cache(policy, weights, token_ids, padding_mask, keys, **settings)


def all_log_probs(policy, completions, temperature=1.0):
    return forward_log_probs(policy, make_prompts(policy.backbone.vocabulary_size), completions, temperature)


@pytest.fixture(scope="module", autouse=True)
def short_segments():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slow_path, "SEGMENT", 5)
        yield


@pytest.fixture(scope="module")
def llama(make_policy):
    """Llama 3 with tied embeddings and random adapters."""
    return make_policy("llama_3", lora_rank=2, tie_word_embeddings=True)


@pytest.mark.parametrize("family", ("llama_3", "qwen_3", "smollm_3", "GPT2"))
def test_equals_the_uncached_forward(family, llama, make_policy):
    if family == "GPT2":
        policy = make_other("GPT2", **GPT_2)
        with pytest.raises(ValueError, match="has embeddings for 16 positions only. Received: .* need 17"):
            sample(policy, length=LENGTH + 1)
    else:
        policy = llama if family == "llama_3" else make_policy(family)
    completions = sample(policy, temperature=0.7)
    assert_log_probs(completions, all_log_probs(policy, completions, 0.7))
    assert len({tuple(ids) for ids in completions.token_ids}) == 6  # groups do not repeat themselves
    greedy = sample(policy, temperature=0.0)
    log_probs = all_log_probs(policy, greedy)
    assert_log_probs(greedy, log_probs)
    live = np.arange(LENGTH) < greedy.lengths[:, None]
    np.testing.assert_array_equal(greedy.token_ids, np.where(live, log_probs.argmax(axis=-1), 0))


def test_gemma_draws_what_its_decoder_draws(gemma_2):
    size = gemma_2.backbone.vocabulary_size
    inputs = *make_prompts(size), row_keys(0, 0, np.arange(6))
    settings = dict(group_size=GROUP, max_completion_length=LENGTH, sampling=Sampling(top_k=20))
    settings["stop_table"] = make_stop_table(size)
    weights = PolicySampler(gemma_2).merged_values()
    expected = generate(decoder_for(gemma_2.backbone), weights, *inputs, **settings)
    completions = generate_with_cache(gemma_2, weights, *inputs, **settings)
    assert 0 < expected.stopped.sum() < len(expected.stopped)
    for array, expected_array in zip(completions, expected, strict=True):
        assert array.dtype == expected_array.dtype
        np.testing.assert_allclose(array, expected_array, atol=1e-5)


def test_bfloat16(make_policy):
    policy = make_policy("llama_3", dtype="mixed_bfloat16")
    completions = sample(policy)
    assert completions.log_probs.dtype == "float32"
    assert_log_probs(completions, all_log_probs(policy, completions), atol=0.1)


def test_batch_split_changes_nothing(llama):
    """Nor does it matter which the shortest prompt is, at whose end the loop begins."""
    whole = sample(llama)
    prompts = make_prompts(llama.backbone.vocabulary_size)
    parts = [sample(llama, [x[i : i + 1] for x in prompts], first_row=i * GROUP) for i in range(3)]
    calls = []
    batches = sample(llama, max_rows=2 * GROUP, on_segment=lambda *numbers: calls.append(numbers))
    few = sample(llama, max_rows=1)  # not even a group
    for completions in (batches, few, type(whole)(*map(np.concatenate, zip(*parts, strict=True)))):
        for array, expected in zip(completions, whole, strict=True):
            np.testing.assert_allclose(array, expected, atol=1e-5)
    assert calls[0][0] > GROUP and calls[-1] == (0, whole.lengths.sum())
    none = sample(llama, [x[:0] for x in prompts])
    assert [(x.shape, x.dtype) for x in none] == [(x[:0].shape, x.dtype) for x in whole]
    with pytest.raises(ValueError, match="Prompts must be left-padded"):
        sample(llama, (prompts[0], prompts[1][:, ::-1]))


def test_on_segment(llama):
    calls = []
    never = np.zeros((4, llama.backbone.vocabulary_size), "int8")
    sample(llama, stop_table=never, on_segment=lambda *numbers: calls.append(numbers))
    # All begin where the prompt of two tokens ends: those of five and three say nothing for three tokens and for one.
    assert calls == [(6, GROUP * (2 + 5 + 4)), (6, GROUP * (7 + 10 + 9)), (0, GROUP * 3 * LENGTH)]


def test_current_adapters_are_used(llama):
    before, counter = sample(llama), CompileCounter()
    adapter = next(v for v in llama.trainable_variables if v.name.endswith("kernel_b"))
    value = np.asarray(adapter)
    adapter.assign(value + 1.0)
    try:
        after = sample(llama)
        assert counter.count == 0
        log_probs = all_log_probs(llama, after)
    finally:
        adapter.assign(value)
    assert np.abs(after.log_probs - before.log_probs).max() > 1e-2
    assert_log_probs(after, log_probs)
    assert all(layer.lora_enabled for layer in lora.adapted_layers(llama))


def test_programs_keep_no_model_alive():
    policy = make_other("GPT2", **GPT_2)
    sample(policy, length=1)
    backbone = weakref.ref(policy.backbone)
    del policy
    gc.collect()
    assert backbone() is None


LINEAR = dict(linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8, linear_value_head_dim=8)
UNSUPPORTED = {
    "Qwen3_5": dict(**LINEAR, num_query_heads=4, num_key_value_heads=2, head_dim=4),  # layers with a recurrent state
    "GPTNeoX": dict(num_heads=4),
}


@pytest.mark.parametrize("family", UNSUPPORTED)
def test_unsupported_model(family):
    with pytest.raises(ValueError, match=f"^{family}CausalLM cannot be decoded: .* Received: policy=<{family}"):
        sample(make_other(family, **UNSUPPORTED[family]))
