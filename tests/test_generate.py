"""The segment loop: stops, lengths, segments, keys."""

import sys

from keras_aha.decoding.generate import SEGMENT, Sampling, _prefill, _segment
from keras_aha.decoding.sampling import row_keys
from keras_aha.grpo_model import GRPOModel
from keras_aha.log_probs import completion_log_probs

import jax
import numpy as np
import pytest

LENGTH = 12
STOPS = tuple("abcdefghijklmnop")  # so many that some rows stop and some do not


@pytest.fixture(scope="module")
def model(gemma):
    return GRPOModel(gemma)


@pytest.fixture(scope="module")
def prompt(model, prompts):
    """`(token_ids, padding_mask)`, prompts of mixed lengths."""
    return model.tokenize(prompts)


@pytest.fixture(scope="module")
def sample(model, prompt):
    """A function: two completions of each prompt; keyword arguments replace the settings."""

    def run(token_ids=prompt[0], padding_mask=prompt[1], **settings):
        settings = dict(group_size=2, max_completion_length=LENGTH, stop_tokens=STOPS, seed=1) | settings
        return model.generate(token_ids, padding_mask, **settings)

    return run


def teacher_forced(model, prompt, completions, temperature=1.0):
    """Log-probs by the uncached forward, and the logits' best tokens, `(B, C)` each."""
    rows, length = completions.token_ids.shape
    repeats = rows // len(prompt[0])
    live = (np.arange(length) < completions.lengths[:, None]).astype("int32")
    token_ids = np.hstack([np.repeat(prompt[0], repeats, axis=0), completions.token_ids])
    padding_mask = np.hstack([np.repeat(prompt[1], repeats, axis=0), live])

    @jax.jit
    def forward(token_ids, padding_mask):
        temperatures = np.full(rows, temperature, "float32")
        log_probs, _ = completion_log_probs(model.policy, token_ids, padding_mask, length, temperatures)
        logits = model.policy({"token_ids": token_ids, "padding_mask": padding_mask})
        return log_probs, logits[:, -length - 1 : -1].argmax(axis=-1)

    log_probs, best = forward(token_ids, padding_mask)
    return np.asarray(log_probs) * live, np.asarray(best) * live


# === Stops and lengths ===


def test_lengths_and_stops(model, sample):
    completions = sample()
    stops = set(model.stop_token_ids(STOPS))
    for ids, log_probs, length, stopped in zip(*completions, strict=True):
        hits = [position for position, token in enumerate(ids) if token in stops]
        assert stopped == bool(hits)
        assert length == (hits[0] + 1 if hits else LENGTH)
        assert not ids[length:].any()
        assert not log_probs[length:].any()
        assert (log_probs[:length] < 0).all()
    assert 0 < completions.stopped.sum() < len(completions.stopped)
    assert [array.dtype for array in completions] == ["int32", "float32", "int32", "bool"]


def test_the_loop_ends_when_every_row_has_stopped(model, prompt):
    token_ids, padding_mask = prompt
    backbone = model.policy.backbone
    weights = [variable.value for variable in backbone.variables]
    state = _prefill(backbone, 2, weights, token_ids, padding_mask)
    stops = tuple(range(model.policy.backbone.vocabulary_size // 2))
    state = _segment(
        backbone,
        SEGMENT,
        Sampling(stops),
        weights,
        state,
        np.repeat(padding_mask > 0, 2, 0),
        row_keys(0, 0, np.arange(6)),
        1.0,
    )
    assert not state.alive.any()
    longest = max(int(np.argmax(np.isin(row, stops))) + 1 for row in np.asarray(state.token_ids))
    assert state.position == longest < SEGMENT


def test_across_a_segment(model, prompt, sample):
    length = SEGMENT + 6
    completions = sample(max_completion_length=length, stop_tokens=())
    assert (completions.lengths > SEGMENT).any()
    log_probs, _ = teacher_forced(model, prompt, completions)
    np.testing.assert_allclose(completions.log_probs, log_probs, atol=1e-5)
    assert completions.token_ids.shape == (6, length)


def test_segment_length_changes_nothing(monkeypatch, sample):
    expected = sample()
    monkeypatch.setattr(sys.modules["keras_aha.decoding.generate"], "SEGMENT", 7)
    completions = sample()
    np.testing.assert_array_equal(completions.token_ids, expected.token_ids)
    np.testing.assert_allclose(completions.log_probs, expected.log_probs, atol=1e-5)
    np.testing.assert_array_equal(completions.lengths, expected.lengths)
    np.testing.assert_array_equal(completions.stopped, expected.stopped)


# === Keys ===


def test_split_over_calls_changes_nothing(prompt, sample):
    expected = sample()
    for i in range(3):
        part = sample(prompt[0][i : i + 1], prompt[1][i : i + 1], first_row=2 * i)
        np.testing.assert_array_equal(part.token_ids, expected.token_ids[2 * i : 2 * i + 2])
        np.testing.assert_allclose(part.log_probs, expected.log_probs[2 * i : 2 * i + 2], atol=1e-5)


def test_a_group_split_over_calls_is_the_same_group(prompt, sample):
    whole = sample(*(np.repeat(array[:1], 3, axis=0) for array in prompt))  # six completions of one prompt
    parts = [sample(prompt[0][:1], prompt[1][:1], first_row=row) for row in (0, 2, 4)]
    np.testing.assert_array_equal(whole.token_ids, np.vstack([part.token_ids for part in parts]))


def test_no_silent_duplicates(prompt, sample):
    """Rows, iterations and seeds draw differently, of the same prompt too; the same ones draw the same."""
    same_prompt = [np.repeat(array[:1], 3, axis=0) for array in prompt]
    drawn = {}
    for seed, iteration in ((0, 0), (0, 1), (1, 0), (1, 1)):
        completions = sample(*same_prompt, seed=seed, iteration=iteration)
        drawn |= {(seed, iteration, row): tuple(ids) for row, ids in enumerate(completions.token_ids)}
    assert len(set(drawn.values())) == len(drawn) == 24
    assert len({ids[0] for ids in drawn.values()}) > 12  # nor do they begin alike
    again = sample(*same_prompt, seed=1, iteration=1)
    assert [tuple(ids) for ids in again.token_ids] == [drawn[1, 1, row] for row in range(6)]


# === Temperature ===


def test_greedy(model, prompt, sample):
    completions = sample(temperature=0.0)
    log_probs, best = teacher_forced(model, prompt, completions)
    np.testing.assert_array_equal(completions.token_ids, best)
    np.testing.assert_allclose(completions.log_probs, log_probs, atol=1e-5)
    for other in (sample(temperature=0.0, seed=7, iteration=3), sample(top_k=1, seed=9)):
        np.testing.assert_array_equal(other.token_ids, completions.token_ids)


def test_log_probs_are_at_the_sampling_temperature(model, prompt, sample):
    completions = sample(temperature=0.7)
    log_probs, _ = teacher_forced(model, prompt, completions, temperature=0.7)
    np.testing.assert_allclose(completions.log_probs, log_probs, atol=1e-5)


def test_current_weights_are_used(model, prompt, sample):
    """Programs are compiled once; the weights, adapters included, are read at each call."""
    before = sample()
    adapter = next(v for v in model.trainable_variables if v.name.endswith("kernel_b"))
    value = np.asarray(adapter)
    compiled = _segment._cache_size()
    adapter.assign(value + 1.0)
    try:
        after = sample()
        log_probs, _ = teacher_forced(model, prompt, after)
    finally:
        adapter.assign(value)
    assert _segment._cache_size() == compiled
    assert np.abs(after.log_probs - before.log_probs).max() > 1e-2
    np.testing.assert_allclose(after.log_probs, log_probs, atol=1e-5)


def test_no_adapter_is_left_off(model, sample):
    sample()
    assert all(block.attention.query_dense.lora_enabled for block in model.policy.backbone.transformer_layers)
