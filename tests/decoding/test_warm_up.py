"""After warming up, completions of any lengths find their programs compiled."""

from keras_aha.callbacks.compile_counter import CompileCounter
from keras_aha.decoding import batch as batches
from keras_aha.decoding import buckets, decoder_for, generate, row_keys
from keras_aha.decoding.buckets import all_buckets, smallest
from keras_aha.decoding.warm_up import _moves

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

PROMPTS, GROUP, LENGTH, COLUMNS = 8, 2, 12, 5
DENSITIES = (0.0, 0.06, 0.1, 0.12, 0.15, 0.2, 0.25, 0.4, 1.0)  # of stops in the vocabulary


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


@pytest.mark.parametrize("shared, max_rows", [(False, None), (True, None), (False, 8)])
def test_nothing_is_compiled_after_warming_up(run, monkeypatch, shared, max_rows):
    moves, move_to = set(), batches.Batch.move_to

    def spy(self, bucket):
        moves.add((self.bucket, bucket))
        move_to(self, bucket)

    monkeypatch.setattr(batches.Batch, "move_to", spy)
    monkeypatch.setattr(batches, "SHARED_PROMPT", 1 if shared else 1000)
    counter = CompileCounter()
    cold = run(0.0, max_rows=max_rows)
    before = counter.count
    assert before > 0  # without warming up, each new way through the buckets compiles something
    warm = run(0.0, max_rows=max_rows, warm_up=True)
    assert max_rows or counter.count > before  # with `max_rows` there is one way only
    np.testing.assert_array_equal(warm.token_ids, cold.token_ids)
    moves.clear()
    counter = CompileCounter()
    lengths = [run(density, max_rows=max_rows).lengths.mean() for density in DENSITIES]
    for temperature in (0.0, 0.7):
        run(0.2, max_rows=max_rows, temperature=temperature)
    assert counter.count == 0
    assert lengths[0] == LENGTH and lengths[-1] == 1
    assert len(moves) == (0 if max_rows else 5)  # all there are; 8 rows are too few for a smaller bucket


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
