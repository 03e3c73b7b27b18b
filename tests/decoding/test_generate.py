"""The segment loop: whatever way a batch takes through its shapes, each row's tokens are those of its own keys."""

from typing import NamedTuple

from keras_aha.decoding import batch as batches
from keras_aha.decoding import buckets, decoder_for, generate, jitted_steps, row_keys
from keras_aha.decoding.batch import Batch
from keras_aha.decoding.sampling import Sampling
from keras_aha.training.log_probs import completion_log_probs
from keras_aha.training.policy_sampler import PolicySampler

import jax
import numpy as np
import pytest
from sampling_oracle import drawn, uniforms

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
    token_ids: np.ndarray
    padding_mask: np.ndarray
    table: np.ndarray

    def run(self, prompts=slice(None), **settings):
        settings = dict(group_size=GROUP, max_completion_length=LENGTH, stop_table=self.table) | settings
        settings = dict(sampling=Sampling(entropy=True), first_row=0) | settings
        token_ids = settings.pop("token_ids", self.token_ids)[prompts]
        padding_mask = settings.pop("padding_mask", self.padding_mask)[prompts]
        rows = settings.pop("first_row") + np.arange(len(token_ids) * settings["group_size"])
        return generate(self.decoder, self.weights, token_ids, padding_mask, row_keys(0, 0, rows), **settings)


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
    return Case(policy, decoder_for(policy.backbone), weights, token_ids, padding_mask, table)


@pytest.fixture(scope="module")
def expected(case):
    """All rows in one bucket from beginning to end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets, "_FEWEST_ROWS", 1000)
        return case.run()


@pytest.fixture
def one_bucket(monkeypatch):
    monkeypatch.setattr(buckets, "_FEWEST_ROWS", 1000)


@pytest.fixture
def moves(monkeypatch):
    """The buckets that a batch moves to, and whether its rows then share their prompts."""
    moves, move_to = [], Batch.move_to

    def spy(self, bucket):
        move_to(self, bucket)
        moves.append((tuple(bucket), self.prompt is not None))

    monkeypatch.setattr(Batch, "move_to", spy)
    return moves


def _forward(policy, token_ids, padding_mask, length, temperatures):
    log_probs, entropy = completion_log_probs(policy, token_ids, padding_mask, length, temperatures)
    logits = policy({"token_ids": token_ids, "padding_mask": padding_mask})[:, -length - 1 : -1].astype("float32")
    return log_probs, entropy, logits


_forward = jax.jit(_forward, static_argnums=(0, 3))


def teacher_forced(case, completions, temperature=1.0):
    """By keras-hub's forward without a cache: log-probs and entropy `(B, C)`, 0 after the end; logits `(B, C, V)`."""
    live = np.arange(LENGTH) < completions.lengths[:, None]
    token_ids = np.hstack([np.repeat(case.token_ids, GROUP, axis=0), completions.token_ids])
    padding_mask = np.hstack([np.repeat(case.padding_mask, GROUP, axis=0), live]).astype("int32")
    temperatures = np.full(ROWS, temperature or 1.0, "float32")
    log_probs, entropy, logits = _forward(case.policy, token_ids, padding_mask, LENGTH, temperatures)
    return np.where(live, log_probs, 0.0), np.where(live, entropy, 0.0), np.asarray(logits)


def softmax(logits, temperature=1.0):
    logits = np.asarray(logits, "float64") / (temperature or 1.0)
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


UNIFORMS = uniforms(row_keys(0, 0, np.arange(ROWS)), LENGTH)


@pytest.fixture(scope="module")
def oracle(case, expected):
    """The token that each key draws, and how near it is to another, `(B, C)`."""
    return drawn(softmax(teacher_forced(case, expected)[2]), UNIFORMS)


@pytest.fixture(scope="module")
def gaps(oracle):
    return oracle[1]


def assert_same(completions, expected, gaps):
    """No token differs, but for those after a near tie, which one row may have."""
    differ = completions.token_ids != expected.token_ids
    rows = np.flatnonzero(differ.any(axis=1))
    assert len(rows) <= 1
    for row in rows:
        assert gaps[row, differ[row].argmax()] < NEAR_TIE
    for array, other in zip(completions, expected, strict=True):
        array, other = np.delete(array, rows, axis=0), np.delete(other, rows, axis=0)
        if array.dtype == "float32":
            np.testing.assert_allclose(array, other, atol=1e-5)
        else:
            np.testing.assert_array_equal(array, other)


def assert_whole(completions, table):
    """Each row ends where the table stops it or the limit does, and is empty after that."""
    token_ids, log_probs, lengths, stopped, entropy = completions
    assert [array.dtype for array in completions] == ["int32", "float32", "int32", "bool", "float32"]
    for row, ids in enumerate(token_ids):
        state, length = 0, 0
        while state < len(table) - 1 and length < token_ids.shape[1]:
            state = table[state, ids[length]]
            length += 1
        assert lengths[row] == length
        assert stopped[row] == (state == len(table) - 1)
        assert not ids[length:].any() and not log_probs[row, length:].any() and not entropy[row, length:].any()
        assert (log_probs[row, :length] < 0).all() and (entropy[row, :length] > 0).all()
    assert completions.finish_reasons.tolist() == ["stop" if end else "length" for end in stopped]


# === One bucket ===


def test_lengths_and_stops(case, expected):
    assert_whole(expected, case.table)
    assert len(set(expected.lengths)) > 10
    assert set(expected.finish_reasons) == {"stop", "length"}


def test_each_token_is_the_one_of_its_key(expected, oracle):
    tokens, gaps = oracle
    live = np.arange(LENGTH) < expected.lengths[:, None]
    sure = live & (gaps > NEAR_TIE)
    np.testing.assert_array_equal(tokens[sure], expected.token_ids[sure])
    assert np.count_nonzero(live & ~sure) <= 1


@pytest.mark.parametrize("temperature", (1.0, 0.7, 0.0))
def test_log_probs_and_entropy_are_at_the_sampling_temperature(case, one_bucket, temperature):
    completions = case.run(temperature=temperature)
    log_probs, entropy, logits = teacher_forced(case, completions, temperature)
    np.testing.assert_allclose(completions.log_probs, log_probs, atol=1e-5)
    np.testing.assert_allclose(completions.entropy, entropy, atol=1e-5)
    if not temperature:
        live = np.arange(LENGTH) < completions.lengths[:, None]
        np.testing.assert_array_equal(completions.token_ids[live], logits.argmax(axis=-1)[live])


@pytest.mark.parametrize(
    "sampling, temperature",
    [
        (Sampling(top_p=0.7), 0.7),
        (Sampling(top_k=5, min_p=0.2), 1.0),
        (Sampling(top_k=20, top_p=0.8, min_p=0.1, entropy=True), 1.3),
    ],
    ids=str,
)
def test_whatever_may_be_drawn_log_probs_are_of_the_full_softmax(case, one_bucket, sampling, temperature):
    completions = case.run(sampling=sampling, temperature=temperature)
    log_probs, entropy, logits = teacher_forced(case, completions, temperature)
    np.testing.assert_allclose(completions.log_probs, log_probs, atol=1e-5)
    if sampling.entropy:
        np.testing.assert_allclose(completions.entropy, entropy, atol=1e-5)
    else:
        assert completions.entropy is None
    # The one that was drawn is the one that its key draws of those that are allowed.
    p = softmax(logits, temperature)
    ordered = np.sort(p, axis=-1)[..., ::-1]
    before = np.cumsum(ordered, axis=-1) - ordered
    least = np.max(
        [
            ordered[..., sampling.top_k - 1 if sampling.top_k else -1],
            np.min(np.where(before < (sampling.top_p or 2.0), ordered, 1.0), axis=-1),
            ordered[..., 0] * (sampling.min_p or 0.0),
        ],
        axis=0,
    )
    tokens, _ = drawn(np.where(p >= least[..., None], p, 0.0), UNIFORMS)
    live = np.arange(LENGTH) < completions.lengths[:, None]
    assert np.mean((tokens == completions.token_ids)[live]) > 0.995  # some lie on the border to 1e-6
    assert np.mean((drawn(p, UNIFORMS)[0] == completions.token_ids)[live]) < 0.9  # the limits did limit


# === Many ===


@pytest.mark.parametrize(
    "constants, visited",
    [
        (dict(_NEW_TOKENS=16), [(63, 32), (16, 32), (4, 32)]),
        (dict(_CACHE_LENGTHS=1, _SHRINK=3, _FEWEST_ROWS=2), [(21, 32), (7, 32), (3, 32)]),
    ],
    ids=str,
)
def test_buckets_change_nothing(case, expected, gaps, moves, monkeypatch, constants, visited):
    for name, value in constants.items():
        monkeypatch.setattr(buckets, name, value)
    assert_same(case.run(), expected, gaps)
    assert [bucket for bucket, _ in moves] == visited


def test_shared_prompts_change_nothing(case, expected, gaps, moves, monkeypatch):
    """The ring of the windowed layer grows from 16 to 20 while prompts are shared, and then takes them in."""
    monkeypatch.setattr(buckets, "_NEW_TOKENS", 16)
    monkeypatch.setattr(batches, "SHARED_PROMPT", 1)
    assert_same(case.run(), expected, gaps)
    assert moves == [((63, 32), True), ((16, 32), False), ((4, 32), False)]


def waiting_prompts(monkeypatch):
    """How many prompts wait, looked at before each segment."""
    seen, decode = [], Batch.decode

    def spy(self, *arguments):
        seen.append(self.waiting)
        decode(self, *arguments)

    monkeypatch.setattr(Batch, "decode", spy)
    return seen


def test_continuous_batching_changes_nothing(case, expected, gaps, moves, monkeypatch):
    """24 places for 63 rows: prompts are admitted two at a time, and at last one."""
    seen = waiting_prompts(monkeypatch)
    assert_same(case.run(max_rows=24), expected, gaps)
    assert set(seen) == {13, 11, 9, 7, 5, 3, 1, 0}
    assert [bucket for bucket, _ in moves] == [(6, LENGTH)]


def test_as_many_rows_as_there_is_room_for_need_not_wait(case, expected, gaps, one_bucket, monkeypatch):
    seen = waiting_prompts(monkeypatch)
    assert_same(case.run(max_rows=64), expected, gaps)
    assert set(seen) == {0}


def test_segment_length_changes_nothing(case, expected, gaps, one_bucket, monkeypatch):
    def fresh(*arguments, parts):  # its length is compiled into a segment
        return segment(*arguments, parts=parts)

    segment = jitted_steps.segment.__wrapped__
    monkeypatch.setattr(jitted_steps, "SEGMENT", 7)
    monkeypatch.setattr(
        jitted_steps, "segment", jax.jit(fresh, static_argnums=(0, 1), static_argnames="parts", donate_argnums=3)
    )
    calls = []
    completions = case.run(max_rows=24, on_segment=lambda rows, tokens: calls.append((rows, tokens)))
    assert_same(completions, expected, gaps)
    assert len(calls) > 60 / 7


def test_left_padding_changes_nothing(case, expected, gaps, one_bucket):
    pad = [(0, 0), (5, 0)]
    padded = dict(token_ids=np.pad(case.token_ids, pad), padding_mask=np.pad(case.padding_mask, pad))
    assert_same(case.run(**padded), expected, gaps)


def test_split_over_calls_changes_nothing(case, expected, gaps):
    parts = [case.run(prompts=slice(first, first + 7), first_row=first * GROUP) for first in (0, 7, 14)]
    assert_same(type(expected)(*map(np.concatenate, zip(*parts, strict=True))), expected, gaps)


def test_a_group_is_what_its_prompt_would_be_alone(case, expected, gaps, one_bucket):
    repeated = [np.repeat(array, GROUP, axis=0) for array in (case.token_ids, case.padding_mask)]
    completions = case.run(token_ids=repeated[0], padding_mask=repeated[1], group_size=1)
    assert_same(completions, expected, gaps)


def test_one_row_alone(case, expected):
    completions = case.run(prompts=slice(0, 1), group_size=1)
    for array, other in zip(completions, expected, strict=True):
        np.testing.assert_allclose(array, other[:1], atol=1e-5)


# === Ends ===


def test_all_rows_stop_at_once(case, expected, one_bucket):
    completions = case.run(stop_table=np.full_like(case.table, 2))
    assert completions.lengths.tolist() == [1] * ROWS and completions.stopped.all()
    np.testing.assert_array_equal(completions.token_ids[:, 0], expected.token_ids[:, 0])
    assert not completions.token_ids[:, 1:].any() and not completions.log_probs[:, 1:].any()


def test_all_rows_stop_at_once_while_others_wait(case, expected):
    completions = case.run(stop_table=np.full_like(case.table, 2), max_rows=24)
    assert completions.lengths.tolist() == [1] * ROWS and completions.stopped.all()
    np.testing.assert_array_equal(completions.token_ids[:, 0], expected.token_ids[:, 0])


@pytest.mark.parametrize("settings", [{}, {"max_rows": 24}], ids=str)
def test_no_row_ever_stops(case, expected, one_bucket, settings):
    completions = case.run(stop_table=np.zeros_like(case.table), **settings)
    assert completions.lengths.tolist() == [LENGTH] * ROWS and not completions.stopped.any()
    live = np.arange(LENGTH) < expected.lengths[:, None]
    np.testing.assert_array_equal(completions.token_ids[live], expected.token_ids[live])
    log_probs, entropy, _ = teacher_forced(case, completions)
    np.testing.assert_allclose(completions.log_probs, log_probs, atol=1e-5)
    np.testing.assert_allclose(completions.entropy, entropy, atol=1e-5)


def test_completions_of_one_token(case, expected, one_bucket):
    completions = case.run(max_completion_length=1)
    np.testing.assert_array_equal(completions.token_ids, expected.token_ids[:, :1])
    np.testing.assert_allclose(completions.log_probs, expected.log_probs[:, :1], atol=1e-5)
    assert completions.lengths.tolist() == [1] * ROWS
    assert completions.stopped.tolist() == (expected.lengths == 1).tolist()


def test_progress_is_reported(case, one_bucket):
    for settings in ({}, {"max_rows": 24}):
        calls = []
        completions = case.run(on_segment=lambda *numbers, calls=calls: calls.append(numbers), **settings)
        assert calls == sorted(calls, key=lambda call: (-call[0], call[1]))
        assert calls[-1] == (0, completions.lengths.sum())


@pytest.mark.parametrize("mask", [[1, 1, 0], [1, 0, 1], [0, 0, 0]])
def test_prompts_must_be_left_padded(case, mask):
    with pytest.raises(ValueError, match="left-padded, with one token at least. Received: padding_mask=") as error:
        case.run(token_ids=np.ones((2, 3), "int32"), padding_mask=np.array([[0, 1, 1], mask]))
    assert str(mask).replace(",", "") in str(error.value)
