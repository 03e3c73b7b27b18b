"""`warm_up`: compiles everything that a rollout may need, by running it with no row alive."""

from keras_aha.decoding.buckets import Bucket, smallest

import numpy as np


def warm_up(new_batch, settings, sampling) -> None:
    """Runs each program that a `Batch` of `new_batch()` may need, whatever the lengths of its completions, and samples
    nothing; the other arguments are those of `Batch.decode`."""
    batch = new_batch()
    if batch.waiting:
        batch.alive[:] = batch.has_row[:] = False
        batch.admit()
    for bucket in batch.buckets:
        batch = _dead_batch(new_batch, bucket)
        batch.decode(settings, sampling)
        batch.decode(settings, sampling)  # on a mesh the first call's outputs may lie otherwise than its inputs did
        if batch.turns is not None:
            batch.revive(np.arange(0))
            batch.decode(settings, sampling)
    for before, after in _moves(batch.buckets, batch.max_completion_length):
        _dead_batch(new_batch, before).move_to(after)


def _dead_batch(new_batch, bucket):
    """A batch in `bucket` in which no row is alive and no prompt waits."""
    batch = new_batch()
    batch.read = len(batch.prompt_ids)
    if bucket != batch.bucket:
        batch.move_to(bucket)
    batch.alive[:] = False
    batch.state = batch.state._replace(alive=batch.placement.rows(batch.alive))
    return batch


def _moves(buckets: list[Bucket], longest: int) -> list[tuple[Bucket, Bucket]]:
    """All pairs of buckets, from one to another, between which a batch may move as rows die and the rest grow."""
    rows = {bucket.rows for bucket in buckets}
    moves = {
        (smallest(buckets, before, length), smallest(buckets, after, length + 1))
        for length in range(1, longest)
        for before in rows
        for after in rows
        if after <= before
    }
    return sorted((before, after) for before, after in moves if before != after)
