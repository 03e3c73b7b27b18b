"""After warming up, completions of any lengths find their programs compiled."""

from keras_aha.callbacks.compile_counter import CompileCounter
from keras_aha.decoding import batch as batches
from keras_aha.decoding import buckets, decoder_for, generate, row_keys
from keras_aha.decoding.buckets import Bucket, all_buckets, smallest
from keras_aha.decoding.warm_up import _moves

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

PROMPTS, GROUP, LENGTH, COLUMNS = 8, 2, 12, 5
DENSITIES = (0.0, 0.03, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.7, 1.0)  # of stops in the vocabulary


@pytest.fixture
def run(make_policy, monkeypatch):
    """A function: samples with a decoder that no program is compiled for yet; stops are of some density."""
    monkeypatch.setattr(buckets, "_NEW_TOKENS", 6)  # so that short completions have several lengths of cache
    decoder = decoder_for(make_policy("gemma_2", sliding_window_size=8).backbone)
    weights = [variable.value for variable in decoder.backbone.variables]
    rng = np.random.default_rng(0)
    size = decoder.backbone.vocabulary_size
    token_ids = rng.integers(1, size, (PROMPTS, COLUMNS))
    keys = row_keys(0, 0, np.arange(PROMPTS * GROUP))

    def run(density, **settings):
        table = np.zeros((2, size), "int8")
        table[0, rng.permutation(size)[: int(density * size)]] = table[1] = 1
        settings = dict(group_size=GROUP, max_completion_length=LENGTH, stop_table=table) | settings
        return generate(decoder, weights, token_ids, np.ones_like(token_ids), keys, **settings)

    return run


@pytest.fixture
def moves(monkeypatch):
    """Every bucket that a batch is in or moves to."""
    seen, move_to = [], batches.Batch.move_to

    def spy(self, bucket):
        seen.append((self.bucket, bucket))
        move_to(self, bucket)

    monkeypatch.setattr(batches.Batch, "move_to", spy)
    return seen


def assert_nothing_is_compiled(run, **settings):
    """For stops of any density."""
    counter = CompileCounter()
    lengths = [run(density, **settings).lengths.mean() for density in DENSITIES]
    assert counter.count == 0
    assert lengths[0] == LENGTH and lengths[-1] == 1


@pytest.mark.parametrize("shared", (False, True))
def test_nothing_is_compiled_after_warming_up(run, moves, monkeypatch, shared):
    monkeypatch.setattr(batches, "SHARED_PROMPT", 1 if shared else 1000)
    counter = CompileCounter()
    # First without: each way through the buckets compiles what is new on it.
    run(0.0)
    first = counter.count
    assert first > 0
    run(0.2)
    second = counter.count
    assert second > first
    # Then with: what is left.
    completions = run(0.0, warm_up=True)
    assert counter.count > second
    np.testing.assert_array_equal(completions.token_ids, run(0.0).token_ids)
    moves.clear()
    assert_nothing_is_compiled(run)
    assert len(set(moves)) == 5  # all there are


def test_nothing_is_compiled_where_prompts_wait(run, moves):
    counter = CompileCounter()
    run(0.0, max_rows=8, warm_up=True)
    assert counter.count > 0
    moves.clear()
    assert_nothing_is_compiled(run, max_rows=8)
    assert not moves  # too few rows for a smaller bucket


def test_temperatures_share_programs(run):
    run(0.0, max_completion_length=3, max_rows=8, warm_up=True)
    counter = CompileCounter()
    for temperature in (0.0, 0.7, 1.3):
        run(0.2, max_completion_length=3, max_rows=8, temperature=temperature)
    assert counter.count == 0


@given(rows=st.integers(1, 600), longest=st.integers(1, 300), data=st.data())
def test_moves_are_all_that_may_happen(rows, longest, data):
    """A batch whose rows die at random moves as it was foreseen."""
    every = all_buckets(rows, longest)
    foreseen = _moves(every, longest)
    assert all(before.rows >= after.rows for before, after in foreseen)
    deaths = sorted(data.draw(st.lists(st.integers(1, longest), min_size=rows, max_size=rows)))
    bucket = smallest(every, rows, 1)
    for tokens in range(1, longest):
        alive = rows - int(np.searchsorted(deaths, tokens, side="right"))
        if not alive:
            break
        after = smallest(every, alive, tokens + 1)
        if after != bucket and (tokens == bucket.new_tokens or data.draw(st.booleans())):  # at once or later
            assert (bucket, after) in foreseen
            bucket = after


def test_the_moves_of_64_rows():
    """Worked out by hand, for two lengths of 64 rows and one of 16."""
    assert _moves([Bucket(64, 5), Bucket(64, 9), Bucket(16, 9)], 9) == [
        (Bucket(64, 5), Bucket(16, 9)),
        (Bucket(64, 5), Bucket(64, 9)),
        (Bucket(64, 9), Bucket(16, 9)),
    ]
