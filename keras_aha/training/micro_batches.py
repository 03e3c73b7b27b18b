"""Micro-batches: rows are split, ordered by length, and cut to the tokens that are trained on."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

_SHORTEST = 32  # below which there is nothing to gain


def micro_batches(batch: dict, micro_batch_size: int | None) -> dict:
    """Splits arrays `(B, …)` into `(M, micro_batch_size, …)`; `None` makes one. ValueError if that does not divide B.

    Row i goes to micro-batch i mod M, so that where devices hold adjacent rows each of them has its share of each.
    """
    rows = len(next(iter(batch.values())))
    size = micro_batch_size or rows
    if rows % size:
        divisors = ", ".join(str(d) for d in range(1, rows + 1) if rows % d == 0)
        raise ValueError(f"micro_batch_size must divide the {rows} rows of a step: {divisors}. Received: {size}")
    return {name: x.reshape(size, rows // size, *x.shape[1:]).swapaxes(0, 1) for name, x in batch.items()}


def by_length(batch: dict, micro_batch_size: int | None) -> dict:
    """Reorders the rows of `Rollout.batch()`, so that a micro-batch has completions of about one length."""
    mask = batch["completion_mask"] > 0
    lengths = mask.shape[1] - np.argmax(mask[:, ::-1], axis=1)  # up to the last token that is trained on
    order = np.argsort(np.where(mask.any(axis=1), lengths, 0), kind="stable")
    size = micro_batch_size or len(order)
    order = order.reshape(-1, size).T.ravel()  # adjacent ones into one micro-batch
    return {name: x[order] for name, x in batch.items()}


def fold_trimmed(function, initial, batches, programs: int):
    """Folds `function` over micro-batches, each cut to the shortest of a few lengths that has all that is trained on.

    The shortest come first; those with nothing to train on are left out. There is a loop for each length, because
    branches within one loop took longer on CPU. A single micro-batch has branches, because XLA would take the body out
    of a loop that turns once, and run it for every length.

    Args:
        function: `(carry, i, batch)` → carry, pure; `batch` is micro-batch i. The carry, any tree of arrays, must not
            depend on what is cut off.
        initial: the first carry; the last one is returned.
        batches: arrays of `Rollout.batch` as `micro_batches` splits them, `(M, …)`; `(M, B, T)` and `(M, B, C)` ones
            are cut at their end.
        programs: how many lengths `function` is compiled for: C, C / 2, C / 4, ….
    """
    mask = batches["completion_mask"] > 0
    length = mask.shape[2]
    lengths = sorted({-(-length // 2**halving) for halving in range(programs)})
    lengths = [n for n in lengths if n == length or n >= _SHORTEST]
    needed = jnp.max(jnp.where(mask, jnp.arange(1, length + 1), 0), axis=(1, 2))
    order = jnp.argsort(needed)

    def step(cut_length, position, carry):
        i = order[position]
        rows = {name: x[i] for name, x in batches.items()}
        ends = {name: x.shape[1] - (length - cut_length) for name, x in rows.items() if x.ndim > 1}
        return function(carry, i, rows | {name: rows[name][:, :end] for name, end in ends.items()})

    steps = [functools.partial(step, cut_length) for cut_length in lengths]
    if len(mask) == 1:
        branches = [lambda _, carry: carry, *steps]
        return jax.lax.switch(jnp.sum(jnp.array([0, *lengths]) < needed), branches, 0, initial)
    carry = initial
    ends = [jnp.sum(needed <= cut_length) for cut_length in (0, *lengths)]
    for (begin, end), body in zip(itertools.pairwise(ends), steps, strict=True):
        carry = jax.lax.fori_loop(begin, end, body, carry)
    return carry
