"""Which token a key draws, in NumPy float64: a block, and a token in it, by inverting distribution functions."""

import jax
import numpy as np


def uniforms(keys, length):
    """The two random numbers of each row's key at each position, `(B, length, 2)`."""

    def of_row(key):
        return jax.vmap(lambda position: jax.random.uniform(jax.random.fold_in(key, position), (2,)))(np.arange(length))

    return np.asarray(jax.jit(jax.vmap(of_row))(keys), "float64")


def drawn(probabilities, uniform):
    """`(…, V)` and `(…, 2)` → the token, and how far the nearer number is from one that would draw another, `(…)`."""
    size = probabilities.shape[-1]
    width = 2 ** int(np.log2(size) / 2)
    padded = np.zeros((*probabilities.shape[:-1], -(-size // width) * width))
    padded[..., :size] = probabilities
    blocks = padded.reshape(*probabilities.shape[:-1], -1, width)
    block, margin = _invert(blocks.sum(axis=-1), uniform[..., 0])
    inside, other = _invert(np.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :], uniform[..., 1])
    return block * width + inside, np.minimum(margin, other)


def _invert(weights, uniform):
    bounds = np.cumsum(weights, axis=-1) / weights.sum(axis=-1, keepdims=True)
    away = np.abs(bounds[..., :-1] - uniform[..., None]).min(axis=-1, initial=1.0)
    return np.sum(bounds <= uniform[..., None], axis=-1), away
