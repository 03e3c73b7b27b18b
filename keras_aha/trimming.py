"""Training on no more padding than a few fixed lengths make necessary."""

import functools
import itertools

import jax
import jax.numpy as jnp

_SHORTEST = 32  # below which there is nothing to gain


def fold_trimmed(function, initial, batches, programs: int):
    """Folds `function` over micro-batches, each cut to the shortest of a few lengths that has all that is trained on.

    The shortest come first; those with nothing to train on are left out. There is a loop for each length, as branches
    within one loop took longer on CPU. A single micro-batch has branches: XLA would move the body of a loop over one to
    the front of it, and run it for every length.

    Args:
        function: `(carry, i, batch)` → carry, pure; `batch` is micro-batch i. The carry must not depend on what is cut
            off.
        initial: the first carry, any tree of arrays.
        batches: arrays of `Rollout.batch` as `micro_batches` splits them, `(M, …)`; `(M, B, T)` and `(M, B, C)` ones
            are cut at their end.
        programs: how many lengths `function` is compiled for: C, C / 2, C / 4, ….

    Returns:
        The last carry.
    """
    mask = batches["completion_mask"] > 0
    length = mask.shape[2]
    lengths = sorted({-(-length // 2**halving) for halving in range(programs)})
    lengths = [n for n in lengths if n == length or n >= _SHORTEST]
    needed = jnp.max(jnp.where(mask, jnp.arange(1, length + 1), 0), axis=(1, 2))
    order = jnp.argsort(needed)

    def step(kept, position, carry):
        i = order[position]
        return function(carry, i, _cut({name: x[i] for name, x in batches.items()}, length - kept))

    steps = [functools.partial(step, kept) for kept in lengths]
    if len(mask) == 1:
        branches = [lambda _, carry: carry, *steps]
        return jax.lax.switch(jnp.sum(jnp.array([0, *lengths]) < needed), branches, 0, initial)
    carry = initial
    ends = [jnp.sum(needed <= kept) for kept in (0, *lengths)]
    for (begin, end), body in zip(itertools.pairwise(ends), steps, strict=True):
        carry = jax.lax.fori_loop(begin, end, body, carry)
    return carry


def _cut(batch, dropped):
    return {name: x if x.ndim < 2 else x[:, : x.shape[1] - dropped] for name, x in batch.items()}
