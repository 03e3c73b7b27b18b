"""`Placement`: on which devices the rows of a batch lie."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


class Placement:
    """Lays rows out over the devices that hold the weights: equal parts along the mesh axis "batch", one after another.

    A row stays on its device from its first token to its last, so that no token waits for another device, unless the
    weights themselves are split: then key-value heads are split with them, along "model". On one device there is one
    part, and nothing is laid out.

    Args:
        weights: arrays, or their shapes with shardings; on a mesh with the axes "batch" and "model" if on several
            devices.

    Attributes:
        parts: how many parts of rows there are.
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

    def cache(self, rows: int, heads: int, slots: int, head_dim: int, dtype):
        """Zeros `(rows, heads, slots, head_dim)`."""
        shape = rows, heads, slots, head_dim
        return jnp.zeros(shape, dtype) if self.mesh is None else jnp.zeros(shape, dtype, device=self.of_cache(heads))

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
        """The first `count` chosen rows of each part, `(parts, count)`; where a part has fewer, they are repeated.

        Args:
            chosen: `(rows,)` bool, NumPy; where a part has none, its first row is taken.
        """
        chosen = chosen.reshape(self.parts, -1)
        kept = [np.resize(np.flatnonzero(part), count) for part in chosen]
        return np.stack(kept) + np.arange(self.parts)[:, None] * chosen.shape[1]
