"""Training on no more padding than a few fixed lengths make necessary."""

import jax
import jax.numpy as jnp

_LENGTHS = 3  # programs of one function: for completions of C, C / 2 and C / 4 tokens
_SHORTEST = 32  # below which there is nothing to gain


def trimmed(function, batch):
    """`function(batch)`, the batch cut to the shortest of a few lengths that has all of what is trained on.

    The result must not depend on what is cut off, and be 0 where nothing is trained on: then nothing is computed.

    Args:
        function: pure; what it returns may be any tree of arrays whose shapes do not depend on C.
        batch: arrays of `Rollout.batch`; `(B, T)` and `(B, C)` ones are cut at their end.
    """
    mask = batch["completion_mask"] > 0
    length = mask.shape[1]
    lengths = sorted({-(-length // 2**halving) for halving in range(_LENGTHS)})
    lengths = [n for n in lengths if n == length or n >= _SHORTEST]

    def nothing(batch):
        return jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, _cut(batch, length, length))
        )

    branches = [nothing] + [lambda batch, n=n: function(_cut(batch, n, length)) for n in lengths]
    needed = jnp.max(jnp.where(mask, jnp.arange(1, length + 1), 0))
    return jax.lax.switch(jnp.sum(jnp.array([0, *lengths]) < needed), branches, batch)


def _cut(batch, kept, length):
    return {name: x if x.ndim < 2 else x[:, : x.shape[1] - (length - kept)] for name, x in batch.items()}
