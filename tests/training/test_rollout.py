"""The `Rollout` record and its micro-batches."""

import dataclasses

from keras_aha.training.micro_batches import by_length, micro_batches, rows_per_prompt
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


def grouped(prompts, group_size):
    """A batch in which all that belongs to row i says so: its prompt is i // G, its completion and advantage i."""
    rows, rng = prompts * group_size, np.random.default_rng(1)
    batch = rollout(rows).batch()
    batch["completion_mask"] = (np.arange(5) < rng.integers(0, 6, (rows, 1))) * rng.integers(0, 2, (rows, 5))
    batch["prompt_ids"] = np.repeat(np.arange(rows) // group_size, 3).reshape(rows, 3)
    batch["completion_ids"] = np.repeat(np.arange(rows), 5).reshape(rows, 5)
    return batch | {"advantages": np.arange(rows)}


@pytest.mark.parametrize(
    "prompts, group_size, shared, size",
    [(6, 1, 1, 2), (3, 4, 1, 3), (3, 4, 2, 2), (3, 4, 2, 6), (3, 4, 4, 4), (2, 8, 4, 8), (2, 8, 2, None)],
)
def test_by_length(prompts, group_size, shared, size):
    """Every row once, those that share a prompt in one micro-batch and nearest in length, the shortest first."""
    batch = grouped(prompts, group_size)
    lengths = np.max(np.arange(1, 6) * batch["completion_mask"], axis=1)
    parts = micro_batches(by_length(batch, size, shared, group_size), size)
    rows = parts["advantages"].reshape(-1, shared)
    assert sorted(rows.ravel()) == list(range(prompts * group_size))
    np.testing.assert_array_equal(parts["completion_ids"][..., 0].reshape(-1, shared), rows)
    np.testing.assert_array_equal(parts["completion_mask"].reshape(-1, 5), batch["completion_mask"][rows.ravel()])
    assert parts["prompt_ids"].shape == (len(parts["advantages"]), len(rows) // len(parts["advantages"]), 3)
    np.testing.assert_array_equal(parts["prompt_ids"][..., 0].reshape(-1, 1) + 0 * rows, rows // group_size)
    longest = lengths[rows].max(axis=1)
    assert (np.diff(longest) >= 0).all()
    for group in range(prompts):  # its rows by length, cut into sub-groups
        own = rows[rows[:, 0] // group_size == group]
        assert (np.diff(lengths[own].ravel()) >= 0).all()


def test_by_length_where_a_process_begins_within_a_group():
    own = {name: x[6:] for name, x in grouped(3, 4).items()}
    parts = micro_batches(by_length(own, 2, 2, 4), 2)
    assert sorted(parts["advantages"].ravel()) == list(range(6, 12))
    np.testing.assert_array_equal(parts["prompt_ids"][..., 0] + 0 * parts["advantages"], parts["advantages"] // 4)


@pytest.mark.parametrize(
    "group_size, rows, lengths, expected",
    [
        (16, 16, (512, 512), 8),  # 784, 544, 448, 448 (the larger is taken) and 544 with 1, 2, 4, 8 and 16
        (8, 16, (256, 64), 8),
        (8, 16, (64, 512), 2),  # 352, 352, 400, 520
        (8, 2, (256, 64), 2),  # no more than a micro-batch holds
        (6, 9, (100, 1), 3),  # and what divides both
        (4, 1, (100, 1), 1),
        (4, 4, (1, 100), 1),
    ],
)
def test_rows_that_share_a_prompt(group_size, rows, lengths, expected):
    """By hand: L / s + C (1 + s / G) / 2 tokens a row."""
    assert rows_per_prompt(group_size, rows, *lengths) == expected


@pytest.mark.parametrize("size", (4, 12))
def test_a_size_that_does_not_divide_is_an_error_that_lists_those_that_do(size):
    with pytest.raises(ValueError, match=f"must divide the 6 rows of a step: 1, 2, 3, 6. Received: {size}"):
        micro_batches(rollout().batch(), size)
