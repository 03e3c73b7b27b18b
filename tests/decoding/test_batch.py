"""Who is where in a batch, while rows die, move, grow and wait."""

from keras_aha.decoding import batch as batches
from keras_aha.decoding import buckets, decoder_for, generate, jitted_steps, row_keys
from keras_aha.decoding.batch import Batch
from keras_aha.decoding.buckets import Bucket
from keras_aha.decoding.placement import Placement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

WINDOW = 10
PROMPT = 13


class Steps:
    """Steps in which row r says `(r, position)`, and which notice if a row's state is that of another one.

    A row's `hidden` is its prompt until it has spoken and then its number; its automaton counts its tokens.
    """

    def __init__(self, group_size, lengths, segment):
        self.group_size, self.lengths, self.length, self.backbone = group_size, lengths, segment, None
        self.spoken, self.rows = [], 0

    def ring_sizes(self, slots):
        return ()

    def prefill(self, decoder, weights, token_ids, starts, position, *, dtype):
        np.testing.assert_array_equal(starts - position, token_ids[:, 1])
        return token_ids[:, :1].astype("float32"), ()

    def segment(self, decoder, sampling, weights, state, rows, prompt, settings, *, parts):
        index, first = int(state.index), int(state.index)
        self.rows = max(self.rows, len(state.alive))
        hidden, alive, automaton = (np.array(x) for x in (state.hidden, state.alive, state.automaton))
        said = np.full((len(alive), self.length), -1)
        while index < min(first + self.length, settings.until) and most(alive, parts) > settings.floor:
            for row in np.flatnonzero(alive):
                number, position = rows.keys[row], index - int(rows.firsts[row])
                assert hidden[row, 0] == (number if position else number // self.group_size)
                assert automaton[row] == position
                assert int(rows.starts[row]) == int(rows.firsts[row]) - 2 + number // self.group_size % 2
                said[row, index - first] = 1000 * number + position
                hidden[row] = number
                ends = position + 1 == self.lengths[number]
                automaton[row] = len(settings.stop_table) - 1 if ends else position + 1
                alive[row] = not ends and position + 1 < settings.max_completion_length
            index += 1
        self.spoken.append(index - first)
        return jitted_steps.State(index, hidden, (), alive, automaton), jitted_steps.Sampled(said, said / 2)

    def take_rows(self, arrays, places):
        return {name: np.asarray(array)[among(places, len(array))] for name, array in arrays.items()}

    def admit(self, old, new, places):
        arrays = {name: np.array(array) for name, array in old.items()}
        for name, array in arrays.items():
            array[among(places, len(array))] = new[name]
        return arrays


def most(alive, parts):
    return max(part.sum() for part in np.split(alive, parts))


def among(places, rows):
    """Places within each part as places among all rows."""
    return np.concatenate([part + i * rows // len(places) for i, part in enumerate(np.asarray(places))])


def in_parts(self, parts):
    """Of `Placement`: as on a mesh with so many parts, but for the arrays, which are of no interest here."""
    self.mesh, self.parts = None, parts


@settings(max_examples=100, deadline=None)
@given(
    prompts=st.integers(1, 9),
    group_size=st.integers(1, 4),
    longest=st.integers(1, 20),
    max_rows=st.none() | st.integers(1, 40),
    parts=st.integers(1, 4),
    shared=st.booleans(),
    constants=st.tuples(st.integers(2, 5), st.integers(1, 4), st.integers(1, 64), st.integers(1, 4)),
    segment=st.integers(1, 25),
    data=st.data(),
)
def test_no_row_is_lost_or_doubled(prompts, group_size, longest, max_rows, parts, shared, constants, segment, data):
    rows = prompts * group_size
    lengths = data.draw(st.lists(st.integers(1, longest + 2), min_size=rows, max_size=rows))
    steps = Steps(group_size, lengths, segment)
    token_ids = np.stack([np.arange(prompts), np.arange(prompts) % 2], axis=1)
    padding_mask = np.stack([1 - np.arange(prompts) % 2, np.ones(prompts, int)], axis=1)
    reports = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "cache_dtype", lambda backbone: "float32")
        for name in ("prefill", "segment", "take_rows", "admit"):
            patch.setattr(jitted_steps, name, getattr(steps, name))
        for name, value in zip(("_SHRINK", "_FEWEST_ROWS", "_NEW_TOKENS", "_CACHE_LENGTHS"), constants, strict=True):
            patch.setattr(buckets, name, value)
        patch.setattr(batches, "SHARED_PROMPT", 1 if shared else 1000)
        patch.setattr(Placement, "__init__", in_parts)
        completions = generate(
            *(steps, parts, token_ids, padding_mask, np.arange(rows)),
            **dict(group_size=group_size, max_completion_length=longest, max_rows=max_rows),
            stop_table=np.zeros((50, 1), "int8"),
            on_segment=lambda *report: reports.append(report),
        )
    live = np.arange(longest) < np.array(lengths)[:, None]
    said = np.where(live, 1000 * np.arange(rows)[:, None] + np.arange(longest), 0)
    np.testing.assert_array_equal(completions.token_ids, said)
    np.testing.assert_array_equal(completions.log_probs, said / 2)
    np.testing.assert_array_equal(completions.lengths, np.minimum(lengths, longest))
    np.testing.assert_array_equal(completions.stopped, np.array(lengths) <= longest)
    assert reports[-1] == (0, completions.lengths.sum())
    assert max_rows is None or max_rows >= rows or steps.rows <= max(max_rows, parts)  # whatever the group's size
    # No more steps than if each wave of rows waited for its longest, and few segments in which nothing is said.
    waves = -(-prompts // max(1, (max_rows or rows) // group_size))
    assert sum(steps.spoken) <= 4 * waves * longest
    assert steps.spoken.count(0) <= prompts


@pytest.fixture(scope="module")
def decoder(make_policy):
    return decoder_for(make_policy("gemma_2", sliding_window_size=WINDOW).backbone)


@pytest.fixture
def make_batch(decoder, monkeypatch):
    """A function: 6 prompts of `PROMPT` tokens, 32 new ones, groups of 4; prompts of `shared` tokens are shared."""
    monkeypatch.setattr(buckets, "_NEW_TOKENS", 8)
    weights = [variable.value for variable in decoder.backbone.variables]

    def make(shared=1000, group_size=4, max_rows=None):
        monkeypatch.setattr(batches, "SHARED_PROMPT", shared)
        starts, keys = np.zeros(6, "int32"), row_keys(0, 0, np.arange(6 * group_size))
        settings = dict(group_size=group_size, max_completion_length=32, max_rows=max_rows, starts=starts, keys=keys)
        token_ids = np.ones((6, PROMPT), "int32")
        return Batch(decoder, weights, token_ids=token_ids, placement=Placement(weights), **settings)

    return make


def shapes(cache, dtype="float32"):
    """Of each layer's rings, whose K and V are alike: rows and slots."""
    assert all(keys.shape == values.shape and keys.shape[1::2] == (2, 8) for keys, values in cache)
    assert {ring.dtype for layer in cache for ring in layer} == {np.dtype(dtype)}
    return [(keys.shape[0], keys.shape[2]) for keys, _ in cache]


def test_windowed_layers_keep_their_window_only(make_batch):
    batch = make_batch()
    assert batch.prompt is None and batch.bucket == Bucket(24, 8)
    assert shapes(batch.state.cache) == [(24, WINDOW), (24, PROMPT + 8)]
    batch.alive[5:] = False
    batch.move_to(Bucket(6, 32))
    assert shapes(batch.state.cache) == [(6, WINDOW), (6, PROMPT + 32)]
    assert batch.alive.tolist() == [True] * 5 + [False]
    assert batch.ids.tolist() == [0, 1, 2, 3, 4, 0]


@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_a_group_shares_the_cache_of_its_prompt(make_batch, monkeypatch, dtype):
    monkeypatch.setattr(batches, "cache_dtype", lambda backbone: dtype)
    batch = make_batch(shared=PROMPT)
    assert shapes(batch.state.cache, dtype) == [(24, 8), (24, 8)]
    batch.move_to(Bucket(24, 16))
    assert shapes(batch.prompt.cache, dtype) == [(6, WINDOW), (6, PROMPT)]
    assert shapes(batch.state.cache, dtype) == [(24, WINDOW), (24, 16)]
    batch.alive[6:] = False
    batch.move_to(Bucket(6, 32))  # not until then has each row a prompt of its own
    assert batch.prompt is None
    assert shapes(batch.state.cache, dtype) == [(6, WINDOW), (6, PROMPT + 32)]


def test_prompts_that_wait(make_batch):
    """Every bucket has room for the longest completion, a prompt comes with its own cache, no group is divided."""
    batch = make_batch(shared=PROMPT, max_rows=17)
    assert batch.waiting == 2 and batch.prompt is None
    assert batch.buckets == [Bucket(16, 32), Bucket(4, 32)]
    assert shapes(batch.state.cache) == [(16, WINDOW), (16, PROMPT + 32)]
    batch = make_batch(max_rows=1)
    assert (len(batch.ids), batch.waiting, batch.unfinished) == (4, 5, 24)
    assert make_batch(shared=PROMPT, group_size=1).prompt is None  # there is nothing to share
