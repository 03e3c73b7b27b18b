"""From a policy and text to completions: stops, keys, current weights, quantization."""

from keras_aha.callbacks.compile_counter import CompileCounter
from keras_aha.models.special_tokens import stop_token_ids
from keras_aha.training.grpo_model import GRPOModel
from keras_aha.training.log_probs import completion_log_probs
from keras_aha.training.policy_sampler import PolicySampler

import jax
import keras_hub
import numpy as np
import pytest

LENGTH, GROUP = 12, 4
STOP_TOKENS = tuple("abcdef")
STOP_STRINGS = tuple(f"{first}{second}" for first in "135" for second in "0123456789")  # within a piece, or across two


@pytest.fixture(scope="module")
def model(gemma):
    return GRPOModel(gemma)


@pytest.fixture(scope="module")
def prompt(model, prompts):
    """`(token_ids, padding_mask)`, prompts of mixed lengths."""
    return model.tokenize(prompts)


@pytest.fixture(scope="module")
def sample(model, prompt):
    """A function: four completions of each prompt; keyword arguments replace the settings."""
    sampler = PolicySampler(model.policy)

    def run(token_ids=prompt[0], padding_mask=prompt[1], **settings):
        defaults = dict(group_size=GROUP, max_completion_length=LENGTH, seed=1)
        stops = dict(stop_tokens=STOP_TOKENS, stop_strings=STOP_STRINGS)
        return sampler.generate(token_ids, padding_mask, **defaults | stops | settings)

    return run


@pytest.fixture(scope="module")
def completions(sample):
    return sample()


def teacher_forced(model, prompt, completions, temperature=1.0):
    """Log-probs by the uncached forward, as in training, 0 after the end."""
    rows, length = completions.token_ids.shape
    live = np.arange(length) < completions.lengths[:, None]
    temperatures = np.full(rows, temperature, "float32")
    forward = jax.jit(lambda *arrays: completion_log_probs(model.policy, *arrays, temperatures)[0])
    return np.asarray(forward(*prompt, completions.token_ids)) * live


def test_stop_strings_and_stop_tokens(model, completions):
    tokenizer = model.tokenizer
    stop_ids = stop_token_ids(tokenizer, STOP_TOKENS)
    ends = set()
    for ids, length, stopped in zip(completions.token_ids, completions.lengths, completions.stopped, strict=True):
        before, last = tokenizer.detokenize([ids[: length - 1].tolist(), [int(ids[length - 1])]])
        assert not any(string in before for string in STOP_STRINGS)
        assert not np.isin(ids[: length - 1], stop_ids).any() and not ids[length:].any()
        by_string = any(string in before + last for string in STOP_STRINGS)
        by_token = ids[length - 1] in stop_ids
        across = by_string and not any(string in last for string in STOP_STRINGS)
        assert stopped == (by_string or by_token)
        assert stopped or length == LENGTH
        ends.add("across" if across else "within" if by_string else "token" if by_token else "length")
    assert ends == {"across", "within", "token", "length"}


def test_without_stops_the_end_token_does(model, prompt, sample, completions):
    """Rows go on as they began, since a stop changes no key."""
    longer = sample(stop_tokens=(), stop_strings=())
    assert (longer.lengths >= completions.lengths).all() and longer.lengths.sum() > completions.lengths.sum()
    live = np.arange(LENGTH) < completions.lengths[:, None]
    np.testing.assert_array_equal(longer.token_ids[live], completions.token_ids[live])
    ended = (longer.token_ids == model.tokenizer.end_token_id).any(axis=1)
    assert longer.stopped.tolist() == ended.tolist()


def test_stop_strings_are_texts(sample):
    with pytest.raises(ValueError, match="must be texts in a list, none empty. Received: stop_strings="):
        sample(stop_strings=["a", ""])


def test_split_over_calls_changes_nothing(prompt, sample, completions):
    for i in range(3):
        mask = None if prompt[1][i].all() else prompt[1][i : i + 1]  # which a prompt without padding does not need
        part = sample(prompt[0][i : i + 1], mask, first_row=GROUP * i)
        rows = slice(GROUP * i, GROUP * (i + 1))
        np.testing.assert_array_equal(part.token_ids, completions.token_ids[rows])
        np.testing.assert_allclose(part.log_probs, completions.log_probs[rows], atol=1e-5)
    some = sample(prompt[0][[1, 1]], prompt[1][[1, 1]], group_size=1, rows=[GROUP + 3, GROUP + 1])
    np.testing.assert_array_equal(some.token_ids, completions.token_ids[[GROUP + 3, GROUP + 1]])


def test_no_silent_duplicates(prompt, sample):
    """Rows, iterations and seeds draw differently, of the same prompt too; the same ones draw the same."""
    same, drawn = [np.repeat(array[:1], 3, axis=0) for array in prompt], {}
    for key in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 1)):
        ids = sample(*same, seed=key[0], iteration=key[1], stop_tokens=(), stop_strings=()).token_ids
        drawn.setdefault(key, ids)
    np.testing.assert_array_equal(ids, drawn[1, 1])
    assert len({tuple(row) for ids in drawn.values() for row in ids}) == 48
    assert len({row[0] for ids in drawn.values() for row in ids}) > 24  # nor do they begin alike


def test_what_may_be_drawn_reaches_the_sampler(sample):
    """Each limit alone leaves the best token only."""
    greedy = sample(temperature=0.0)
    np.testing.assert_array_equal(greedy.token_ids[::GROUP], sample(temperature=0.0, seed=7).token_ids[1::GROUP])
    for limit in (dict(top_k=1), dict(top_p=1e-6), dict(min_p=1.0)):
        completions = sample(**limit)
        np.testing.assert_array_equal(completions.token_ids, greedy.token_ids)
        np.testing.assert_allclose(completions.log_probs, greedy.log_probs, atol=1e-6)


def test_a_cache_in_bfloat16(model, prompt, sample, monkeypatch):
    """As accelerators have it."""
    monkeypatch.setattr("keras_aha.decoding.batch.cache_dtype", lambda backbone: "bfloat16")
    completions = sample()
    errors = np.abs(completions.log_probs - teacher_forced(model, prompt, completions))
    assert 1e-5 < errors.max() < 0.1


@pytest.mark.parametrize("quantization, least, most", ((None, 0, 1e-5), ("int8", 1e-4, 0.5)))
def test_current_weights_are_used(model, prompt, sample, completions, quantization, least, most):
    """Programs are compiled once; the weights, adapters included, are read at each call."""
    before = sample(quantization=quantization)
    errors = np.abs(before.log_probs - teacher_forced(model, prompt, before))
    assert least <= errors.max() < most  # quantized weights are those of another policy, though a close one
    adapter = next(v for v in model.trainable_variables if v.name.endswith("kernel_b"))
    value = np.asarray(adapter)
    counter = CompileCounter()
    adapter.assign(value + 1.0)
    try:
        after = sample(quantization=quantization)
        assert counter.count == 0
        assert np.abs(after.log_probs - teacher_forced(model, prompt, after)).max() < most
    finally:
        adapter.assign(value)
    assert np.abs(after.log_probs - before.log_probs).max() > 1e-2
    np.testing.assert_array_equal(sample().token_ids, completions.token_ids)  # the policy itself is as it was
    assert all(block.attention.query_dense.lora_enabled for block in model.policy.backbone.transformer_layers)


def test_log_probs_that_are_not_finite_are_an_error(model, prompt):
    """Before anything is learnt from them."""
    scale = model.policy.backbone.layer_norm.weights[0]
    value = np.asarray(scale)
    scale.assign(np.full_like(value, np.inf))
    try:
        with pytest.raises(ValueError, match='Set model.dtype to "bfloat16".*Received: dtype=.float32.'):
            model.generate(*prompt, max_completion_length=2)
    finally:
        scale.assign(value)


def test_other_architectures_are_slower_and_say_so():
    shape = dict(vocabulary_size=50, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=16)
    backbone = keras_hub.models.GPT2Backbone(**shape, max_sequence_length=16)
    with pytest.warns(UserWarning, match="GPT2CausalLM is sampled by way of its call_with_cache"):
        sampler = PolicySampler(keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None))
    sampler._stop_table = lambda *stops: np.zeros((2, 50), "int8")  # this one has no tokenizer
    completions = sampler.generate(np.ones((2, 3), "int32"), group_size=2, max_completion_length=4)
    assert completions.lengths.tolist() == [4] * 4
    with pytest.raises(ValueError, match="Gemma's architectures. Received: quantization='int8', policy=GPT2CausalLM"):
        sampler.generate(np.ones((2, 3), "int32"), quantization="int8")
