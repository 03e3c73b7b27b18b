"""Training on no more padding than a few fixed lengths make necessary."""

import jax
import jax.numpy as jnp

_LENGTHS = 3  # programs of one function: for completions of C, C / 2 and C / 4 tokens
_SHORTEST = 32  # below which there is nothing to gain


def fold_trimmed(function, initial, batches):
    """Folds `function` over micro-batches, each cut to the shortest of a few lengths that has all that is trained on.

    The shortest come first; those with nothing to train on are left out. There is a loop for each length and no
    conditional, whose branches took longer on CPU.

    Args:
        function: `(carry, i, batch)` → carry, pure; `batch` is micro-batch i. The carry must not depend on what is cut
            off.
        initial: the first carry, any tree of arrays.
        batches: arrays of `Rollout.batch` as `micro_batches` splits them, `(M, …)`; `(M, B, T)` and `(M, B, C)` ones
            are cut at their end.

    Returns:
        The last carry.
    """
    mask = batches["completion_mask"] > 0
    length = mask.shape[2]
    lengths = sorted({-(-length // 2**halving) for halving in range(_LENGTHS)})
    lengths = [n for n in lengths if n == length or n >= _SHORTEST]
    needed = jnp.max(jnp.where(mask, jnp.arange(1, length + 1), 0), axis=(1, 2))
    ends = [jnp.sum(needed <= n) for n in (0, *lengths)]
    # One more than there are, so that even of one micro-batch a loop's body depends on the position: XLA takes what
    # does not out of the loop, where it would run for every length.
    order = jnp.append(jnp.argsort(needed), 0)
    batches = {name: x[order] for name, x in batches.items()}

    carry = initial
    for kept, begin, end in zip(lengths, ends, ends[1:], strict=False):

        def step(position, carry, kept=kept):
            batch = {name: x[position] for name, x in batches.items()}
            return function(carry, order[position], _cut(batch, length - kept))

        carry = jax.lax.fori_loop(begin, end, step, carry)
    return carry


def _cut(batch, dropped):
    return {name: x if x.ndim < 2 else x[:, : x.shape[1] - dropped] for name, x in batch.items()}
