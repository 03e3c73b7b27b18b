"""The segment loop: whatever way a batch takes through its shapes, each row's tokens are those of its own keys."""

from typing import NamedTuple

from keras_aha.decoding import batch as batches
from keras_aha.decoding import buckets, decoder_for, generate, jitted_steps, row_keys
from keras_aha.decoding.batch import Batch
from keras_aha.decoding.sampling import Sampling
from keras_aha.training.policy_sampler import PolicySampler

import jax
import numpy as np
import pytest
from sampling_oracle import assert_log_probs, drawn, forward_log_probs, uniforms

PROMPTS, GROUP, ROWS = 21, 3, 63
LENGTH = 32
COLUMNS = 25  # of prompts
WINDOW = 20  # of layer 0; shorter than some prompts, longer than half a completion
NEAR_TIE = 2e-5  # of a random number from one that draws another token


class Case(NamedTuple):
    """A policy, its decoder (programs are compiled for it), and what `generate` takes."""

    policy: object
    decoder: object
    weights: list
    prompts: tuple
    table: np.ndarray

    def run(self, prompts=None, first_row=0, **settings):
        token_ids, padding_mask = prompts or self.prompts
        settings = dict(group_size=GROUP, max_completion_length=LENGTH, stop_table=self.table) | settings
        keys = row_keys(0, 0, first_row + np.arange(len(token_ids) * settings["group_size"]))
        return generate(self.decoder, self.weights, token_ids, padding_mask, keys, **settings)


@pytest.fixture(scope="module")
def case(make_policy):
    """Prompts of 3 to 25 tokens for a policy with a windowed layer and one without.

    Every seventh token or so counts, and the second one ends a row, which so has a state to take with it when it moves.
    """
    policy = make_policy("gemma_2", lora_rank=2, sliding_window_size=WINDOW)
    vocabulary_size = policy.backbone.vocabulary_size
    rng = np.random.default_rng(0)
    padding_mask = (np.arange(COLUMNS) >= COLUMNS - rng.integers(3, COLUMNS + 1, (PROMPTS, 1))).astype("int32")
    padding_mask[0] = 1
    token_ids = rng.integers(4, vocabulary_size, padding_mask.shape).astype("int32") * padding_mask
    stops = np.random.default_rng(2).random(vocabulary_size) < 0.15
    table = np.array([stops, 1 + stops, np.full(vocabulary_size, 2)], "int8")
    weights = PolicySampler(policy).merged_values()
    return Case(policy, decoder_for(policy.backbone), weights, (token_ids, padding_mask), table)


@pytest.fixture
def one_bucket(monkeypatch):
    monkeypatch.setattr(buckets, "_FEWEST_ROWS", 1000)


@pytest.fixture(scope="module")
def expected(case):
    """All rows in one bucket from beginning to end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets, "_FEWEST_ROWS", 1000)
        return case.run()


@pytest.fixture(scope="module")
def oracle(case, expected):
    """The token that each key draws, and how near it is to another, `(B, C)`."""
    return drawn(np.exp(forward_log_probs(case.policy, case.prompts, expected)), UNIFORMS)


UNIFORMS = uniforms(row_keys(0, 0, np.arange(ROWS)), LENGTH)


@pytest.fixture
def path(monkeypatch):
    """What a batch goes through: before each segment its bucket, whether prompts are shared, and how many wait."""
    path, decode = [], Batch.decode

    def spy(self, *arguments):
        path.append((tuple(self.bucket), self.prompt is not None, self.waiting))
        decode(self, *arguments)

    monkeypatch.setattr(Batch, "decode", spy)
    return path


def live(completions):
    return np.arange(completions.token_ids.shape[1]) < completions.lengths[:, None]


def assert_same(completions, expected, oracle):
    """No token differs, but for those after a near tie, which one row may have."""
    differ = completions.token_ids != expected.token_ids
    rows = np.flatnonzero(differ.any(axis=1))
    assert len(rows) <= 1
    for row in rows:
        assert oracle[1][row, differ[row].argmax()] < NEAR_TIE
    for array, other in zip(completions, expected, strict=True):
        array, other = np.delete(array, rows, axis=0), np.delete(other, rows, axis=0)
        assert array.dtype == other.dtype
        np.testing.assert_allclose(array, other, atol=1e-5 if array.dtype == "float32" else 0)


def test_rows_end_where_the_table_stops_them_or_the_limit_does(case, expected):
    assert [array.dtype for array in expected] == ["int32", "float32", "int32", "bool", "bool"]
    for ids, log_probs, length, stopped, observed in zip(*expected, strict=True):
        state = tokens = 0
        while state < 2 and tokens < LENGTH:
            state = case.table[state, ids[tokens]]
            tokens += 1
        assert (length, stopped) == (tokens, state == 2)
        assert not ids[length:].any() and not log_probs[length:].any() and (log_probs[:length] < 0).all()
        assert not observed.any()
    assert len(set(expected.lengths)) > 10 and 0 < expected.stopped.sum() < ROWS


@pytest.mark.parametrize(
    "sampling, temperature",
    [(Sampling(), 0.7), (Sampling(), 0.0), (Sampling(top_k=20, top_p=0.8, min_p=0.1), 1.3)],
    ids=str,
)
def test_log_probs_are_of_the_full_softmax_at_the_temperature(case, one_bucket, sampling, temperature):
    completions = case.run(sampling=sampling, temperature=temperature)
    log_probs = forward_log_probs(case.policy, case.prompts, completions, temperature)
    assert_log_probs(completions, log_probs)
    if not temperature:
        np.testing.assert_array_equal(completions.token_ids, np.where(live(completions), log_probs.argmax(axis=-1), 0))
    elif sampling != Sampling():
        # The one that was drawn is the one that its key draws of those that are allowed.
        p = np.exp(log_probs)
        ordered = np.sort(p, axis=-1)[..., ::-1]
        fewest = np.where(np.cumsum(ordered, axis=-1) - ordered < sampling.top_p, ordered, 1.0).min(axis=-1)
        least = np.maximum(fewest, ordered[..., 0] * (sampling.min_p or 0.0))
        least = np.maximum(least, ordered[..., (sampling.top_k or 0) - 1])
        tokens, _ = drawn(np.where(p >= least[..., None], p, 0.0), UNIFORMS)
        same = (tokens == completions.token_ids)[live(completions)]
        assert np.mean(same) > 0.995  # some lie on the border to 1e-6
        others = (drawn(p, UNIFORMS)[0] == completions.token_ids)[live(completions)]
        assert np.mean(others) < 0.9  # the limits did limit


@pytest.mark.parametrize(
    "constants, shared, visited",
    [
        (dict(_CACHE_LENGTHS=1, _SHRINK=3, _FEWEST_ROWS=2), False, [(63, 32), (21, 32), (7, 32), (3, 32)]),
        # The ring of the windowed layer grows from 16 to 20 while prompts are shared, and then takes them in.
        (dict(_NEW_TOKENS=16), True, [(63, 16), (63, 32), (16, 32), (4, 32)]),
    ],
    ids=str,
)
def test_buckets_and_shared_prompts(case, expected, oracle, path, monkeypatch, constants, shared, visited):
    for name, value in constants.items():
        monkeypatch.setattr(buckets, name, value)
    monkeypatch.setattr(batches, "SHARED_PROMPT", 1 if shared else 1000)
    assert_same(case.run(), expected, oracle)
    assert path == [(bucket, shared and bucket[0] == 63, 0) for bucket in visited]


def test_continuous_batching(case, expected, oracle, path):
    """24 places for 63 rows: prompts are admitted two at a time, and at last one; then the batch shrinks."""
    assert_same(case.run(max_rows=24), expected, oracle)
    assert {waiting for _, _, waiting in path} == {13, 11, 9, 7, 5, 3, 1, 0}
    assert path[0][0] == (24, LENGTH) and path[-1][0] == (6, LENGTH)


@pytest.mark.parametrize("max_rows", (1, GROUP - 1))
def test_fewer_rows_than_a_group(case, expected, oracle, path, max_rows):
    few = case.run([array[:2] for array in case.prompts], max_rows=max_rows)
    assert_same(few, type(expected)(*(array[: 2 * GROUP] for array in expected)), oracle)
    assert max(rows for (rows, _), _, _ in path) <= max_rows


def test_segments_of_another_length(case, expected, oracle, one_bucket, monkeypatch):
    segment = jitted_steps.segment.__wrapped__

    def fresh(*arguments, parts):  # its length is compiled into a segment
        return segment(*arguments, parts=parts)

    monkeypatch.setattr(jitted_steps, "SEGMENT", 7)
    jitted = jax.jit(fresh, static_argnums=(0, 1), static_argnames="parts", donate_argnums=3)
    monkeypatch.setattr(jitted_steps, "segment", jitted)
    calls = []
    completions = case.run(max_rows=24, on_segment=lambda rows, tokens: calls.append((rows, tokens)))
    assert_same(completions, expected, oracle)
    assert len(calls) > 60 / 7
    assert calls == sorted(calls, key=lambda call: (-call[0], call[1])) and calls[-1] == (0, expected.lengths.sum())


def test_padding_splits_and_groups(case, expected, oracle, one_bucket, path):
    padded = [np.pad(array, [(0, 0), (5, 0)]) for array in case.prompts]
    assert_same(case.run(padded, max_rows=64), expected, oracle)
    assert {waiting for _, _, waiting in path} == {0}  # there is room for all
    thirds = [(first, [array[first : first + 7] for array in case.prompts]) for first in (0, 7, 14)]
    parts = [case.run(third, first_row=first * GROUP) for first, third in thirds]
    assert_same(type(expected)(*map(np.concatenate, zip(*parts, strict=True))), expected, oracle)
    repeated = [np.repeat(array, GROUP, axis=0) for array in case.prompts]
    assert_same(case.run(repeated, group_size=1), expected, oracle)
    alone = case.run([array[:1] for array in case.prompts], group_size=1)
    assert_same(alone, type(expected)(*(array[:1] for array in expected)), oracle)


@pytest.mark.parametrize("settings", [{}, {"max_rows": 24}], ids=str)
def test_all_rows_stop_at_once_or_none_ever(case, expected, one_bucket, settings):
    completions = case.run(stop_table=np.full_like(case.table, 2), **settings)
    assert completions.lengths.tolist() == [1] * ROWS and completions.stopped.all()
    np.testing.assert_array_equal(completions.token_ids[:, 0], expected.token_ids[:, 0])
    assert not completions.token_ids[:, 1:].any() and not completions.log_probs[:, 1:].any()
    completions = case.run(stop_table=np.zeros_like(case.table), **settings)
    assert completions.lengths.tolist() == [LENGTH] * ROWS and not completions.stopped.any()
    np.testing.assert_array_equal(completions.token_ids[live(expected)], expected.token_ids[live(expected)])
    assert_log_probs(completions, forward_log_probs(case.policy, case.prompts, completions))


def test_completions_of_one_token_and_of_no_prompts(case, expected, one_bucket):
    completions = case.run(max_completion_length=1)
    np.testing.assert_array_equal(completions.token_ids, expected.token_ids[:, :1])
    np.testing.assert_allclose(completions.log_probs, expected.log_probs[:, :1], atol=1e-5)
    assert completions.lengths.tolist() == [1] * ROWS
    assert completions.stopped.tolist() == (expected.lengths == 1).tolist()
    none = case.run([array[:0] for array in case.prompts])
    assert [(x.shape, x.dtype) for x in none] == [(x[:0].shape, x.dtype) for x in expected]


@pytest.mark.parametrize("mask", [[1, 0, 1], [0, 0, 0]])
def test_prompts_must_be_left_padded(case, mask):
    with pytest.raises(ValueError, match="left-padded, with one token at least. Received: padding_mask=") as error:
        case.run((np.ones((2, 3), "int32"), np.array([[0, 1, 1], mask])))
    assert str(mask).replace(",", "") in str(error.value)
