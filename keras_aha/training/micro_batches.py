"""Micro-batches: rows are split, ordered by length, and cut to the tokens that are trained on."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

# The arrays of a batch that have a row for each prompt
PROMPTS = ("prompt_ids", "prompt_mask", "teacher_prompt_ids", "teacher_prompt_mask")
_SHORTEST = 32  # below which there is nothing to gain


def micro_batches(batch: dict, micro_batch_size: int | None) -> dict:
    """Splits arrays `(B, …)` into `(M, micro_batch_size, …)`; `None` makes one. ValueError if that does not divide B.

    Row i goes to micro-batch i mod M, so that where devices hold adjacent rows each of them has its share of each. So
    do prompts, `(P, …)`.
    """
    rows = len(batch["completion_ids"])
    size = micro_batch_size or rows
    if rows % size:
        divisors = ", ".join(str(d) for d in range(1, rows + 1) if rows % d == 0)
        raise ValueError(f"micro_batch_size must divide the {rows} rows of a step: {divisors}. Received: {size}")
    return {name: x.reshape(-1, rows // size, *x.shape[1:]).swapaxes(0, 1) for name, x in batch.items()}


def by_length(batch: dict, micro_batch_size: int | None, rows_per_prompt: int = 1, group_size: int = 1) -> dict:
    """Reorders the rows of `Rollout.batch()`, so that a micro-batch has completions of about one length.

    Args:
        batch: of groups in adjacent rows, a prompt for each row.
        micro_batch_size: of this process's rows; `None` for one micro-batch.
        rows_per_prompt: so many rows of a group stay together, those that are nearest in length, and the batch that is
            returned has one prompt for them. It must divide `group_size` and `micro_batch_size`.
        group_size: G; a process may begin or end within a group.
    """
    mask = batch["completion_mask"] > 0
    group_size = math.gcd(group_size, len(mask))
    lengths = mask.shape[1] - np.argmax(mask[:, ::-1], axis=1)  # up to the last token that is trained on
    lengths = np.where(mask.any(axis=1), lengths, 0).reshape(-1, group_size)
    within = np.argsort(lengths, axis=1, kind="stable")
    rows = (within + np.arange(len(lengths))[:, None] * group_size).reshape(-1, rows_per_prompt)
    rows = rows[np.argsort(lengths.ravel()[rows[:, -1]], kind="stable")]
    order = rows.reshape(-1, micro_batch_size or rows.size)  # micro-batches
    prompts = order[:, ::rows_per_prompt]
    order, prompts = order.T.ravel(), prompts.T.ravel()  # adjacent ones into one micro-batch
    return {name: x[prompts if name in PROMPTS else order] for name, x in batch.items()}


def rows_per_prompt(group_size: int, rows: int, prompt_length: int, completion_length: int) -> int:
    """How many rows of a group share their prompt in an update, for the fewest tokens.

    Rows that share a prompt are cut to one length. Sorted by length one by one, about half of the completions' tokens
    can be cut off; if whole groups stay together, hardly any.

    Args:
        group_size: G.
        rows: of a micro-batch on one device.
        prompt_length, completion_length: L and C, in tokens.
    """

    def tokens_of_a_row(rows_per_prompt):
        return prompt_length / rows_per_prompt + completion_length * (1 + rows_per_prompt / group_size) / 2

    sizes = [size for size in range(1, group_size + 1) if group_size % size == 0 == rows % size]
    return min(reversed(sizes), key=tokens_of_a_row)


def fold_trimmed(function, initial, batches, programs: int):
    """Folds `function` over micro-batches, each cut to the shortest of a few lengths that has all that is trained on.

    The shortest come first; those with nothing to train on are left out. There is a loop for each length, because
    branches within one loop took longer on CPU. A single micro-batch has branches, because XLA would take the body out
    of a loop that turns once, and run it for every length.

    Args:
        function: `(carry, i, batch)` → carry, pure; `batch` is micro-batch i. The carry, any tree of arrays, must not
            depend on what is cut off.
        initial: the first carry; the last one is returned.
        batches: arrays of `Rollout.batch` as `micro_batches` splits them, `(M, …)`; `(M, B, C)` ones are cut at their
            end.
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
        cut = {name: x[:, :cut_length] for name, x in rows.items() if x.ndim > 1 and name not in PROMPTS}
        return function(carry, i, rows | cut)

    steps = [functools.partial(step, cut_length) for cut_length in lengths]
    if len(mask) == 1:
        branches = [lambda _, carry: carry, *steps]
        return jax.lax.switch(jnp.sum(jnp.array([0, *lengths]) < needed), branches, 0, initial)
    carry = initial
    ends = [jnp.sum(needed <= cut_length) for cut_length in (0, *lengths)]
    for (begin, end), body in zip(itertools.pairwise(ends), steps, strict=True):
        carry = jax.lax.fori_loop(begin, end, body, carry)
    return carry
