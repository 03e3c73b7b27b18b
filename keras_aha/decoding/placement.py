"""`Placement`: on which devices the rows of a batch lie."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


class Placement:
    """Splits rows over the devices that hold the weights: equal parts along the mesh axis "batch", one after another.

    A row stays on its device from its first token to its last, so that no token waits for another device. If the
    weights themselves are split along "model", key-value heads are split with them. On one device there is one part.

    Args:
        weights: arrays, or their shapes with shardings. If they lie on several devices, then on a mesh with the axes
            "batch" and "model".

    Attributes:
        parts: the number of parts.
    """

    def __init__(self, weights):
        sharding = weights[0].sharding
        self.mesh = sharding.mesh if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1 else None
        self.parts = self.mesh.shape["batch"] if self.mesh else 1

    def rows(self, tree):
        """Arrays whose first axis is rows, in equal parts."""
        return self._put(tree, "batch")

    def everywhere(self, tree):
        """Arrays that each device holds all of."""
        return self._put(tree)

    def empty_cache(self, cache, rows: int, sizes):
        """Zeros like `cache`, for so many rows, with so many slots in the rings of each layer."""

        def zeros(ring, size):
            _, heads, _, head_dim = ring.shape
            return jnp.zeros((rows, heads, size, head_dim), ring.dtype, device=self.mesh and self.of_cache(heads))

        return tuple(tuple(zeros(ring, size) for ring in layer) for layer, size in zip(cache, sizes, strict=True))

    def of_cache(self, heads: int) -> NamedSharding:
        """The sharding of keys and values `(rows, heads, slots, head dim)`."""
        split = heads % self.mesh.shape["model"] == 0
        return NamedSharding(self.mesh, PartitionSpec("batch", "model" if split else None))

    def _put(self, tree, *axes):
        if self.mesh is None:
            return jax.tree.map(jnp.asarray, tree)
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec(*axes)))

    # === Rows by their part ===

    def most(self, alive) -> int:
        """The number of living rows in the part that has most of them; `alive` is `(rows,)` bool, NumPy."""
        return int(alive.reshape(self.parts, -1).sum(axis=1).max())

    def first(self, chosen, count: int):
        """The first `count` chosen rows of each part, `(parts, count)`; if a part has fewer, they are repeated.

        Args:
            chosen: `(rows,)` bool, NumPy; if a part has none, its first row is taken.
        """
        chosen = chosen.reshape(self.parts, -1)
        places = [np.resize(np.flatnonzero(part), count) for part in chosen]
        return np.stack(places) + np.arange(self.parts)[:, None] * chosen.shape[1]
