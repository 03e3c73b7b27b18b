"""The `Rollout` record and its micro-batches."""

import dataclasses

from keras_aha.training.micro_batches import by_length, micro_batches
from keras_aha.training.rollout import Rollout

import numpy as np
import pytest


def rollout(rows=6, prompt=3, completion=5):
    rng = np.random.default_rng(0)
    old, sampler = rng.normal(size=(2, rows, completion))
    return Rollout(
        token_ids=rng.integers(0, 9, (rows, prompt + completion)),
        padding_mask=np.ones((rows, prompt + completion), "int32"),
        completion_mask=np.ones((rows, completion), "float32"),
        **dict(old_log_probs=old, sampler_log_probs=sampler, temperature=np.ones(rows, "float32")),
        **dict(advantages=rng.normal(size=rows), rewards=rng.normal(size=rows), truncated=np.zeros(rows, bool)),
        **dict(problems=tuple(range(rows)), texts=("",) * rows, scores=(None,) * rows),
    )


def test_lengths_count_completion_tokens():
    made = rollout(rows=2)
    made.padding_mask[1, 5:] = 0
    assert made.lengths.tolist() == [5, 2]


def test_with_rows_takes_whole_rows_of_another():
    first, other = rollout(), rollout(rows=3)
    other = dataclasses.replace(other, problems=("a", "b", "c"), texts=("A", "B", "C"))
    mixed = first.with_rows(np.array([4, 1]), other, np.array([0, 2]))
    assert mixed.problems == (0, "c", 2, 3, "a", 5)
    assert mixed.texts == ("", "C", "", "", "A", "")
    for field in dataclasses.fields(Rollout):
        values, ours, theirs = (getattr(made, field.name) for made in (mixed, first, other))
        if isinstance(values, np.ndarray):
            expected = np.stack([ours[0], theirs[2], ours[2], ours[3], theirs[0], ours[5]])
            np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("size, shape", [(None, (1, 6)), (6, (1, 6)), (2, (3, 2)), (1, (6, 1))])
def test_micro_batches_take_rows_in_turn(size, shape):
    batch = rollout().batch()
    for name, array in micro_batches(batch, size).items():
        assert array.shape == (*shape, *batch[name].shape[1:])
        for row in range(6):
            np.testing.assert_array_equal(array[row % shape[0], row // shape[0]], batch[name][row])


@pytest.mark.parametrize("size", (None, 6, 3, 2, 1))
def test_by_length(size):
    """Micro-batches are of rows of about one length, the untrained first; what belongs to a row stays together."""
    mask = np.zeros((6, 5))
    for row, columns in enumerate([[0, 1, 2], [0, 4], [], [0], [0, 1, 2, 3], [0, 1]]):
        mask[row, columns] = 1
    batch = {"completion_mask": mask, "advantages": np.arange(6)}
    parts = micro_batches(by_length(batch, size), size)
    assert parts["advantages"].ravel().tolist() == [2, 3, 5, 0, 4, 1]
    np.testing.assert_array_equal(parts["completion_mask"].reshape(6, 5), mask[parts["advantages"].ravel()])


@pytest.mark.parametrize("size", (4, 12))
def test_a_size_that_does_not_divide_is_an_error_that_lists_those_that_do(size):
    with pytest.raises(ValueError, match=f"must divide the 6 rows of a step: 1, 2, 3, 6. Received: {size}"):
        micro_batches(rollout().batch(), size)
