"""Where a run's arrays lie on the devices, as shapes with shardings."""

import math

import jax
import keras
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding


class Layouts:
    """Shapes with shardings, under the distribution that is set now; without one, on the first of `devices`."""

    def __init__(self, devices):
        self.distribution = keras.distribution.distribution()
        self.device = devices[0]

    def variable(self, variable, dtype: str | None = None) -> jax.ShapeDtypeStruct:
        """A `keras.Variable`, as it lies in training, in its own dtype or another."""
        layout = self.distribution and self.distribution.get_variable_layout(variable)
        return self._shape(variable, layout, dtype)

    def rollout(self, variable, dtype: str | None = None) -> jax.ShapeDtypeStruct:
        """The same variable, as it lies in rollouts."""
        layout = self.distribution and self.distribution.rollouts.layout(variable.path, variable.shape)
        return self._shape(variable, layout, dtype)

    def batch(self, array) -> jax.ShapeDtypeStruct:
        """An array of a batch, whose rows are split."""
        return self._shape(array, self.distribution and self.distribution.get_data_layout(array.shape))

    def on_mesh(self, mesh, array, *axes: str | None) -> jax.ShapeDtypeStruct:
        """An array whose first axes are split along these of a mesh; whole on a single device, which has no mesh."""
        sharding = SingleDeviceSharding(self.device) if mesh is None else NamedSharding(mesh, PartitionSpec(*axes))
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    def _shape(self, array, layout, dtype=None) -> jax.ShapeDtypeStruct:
        sharding = layout.backend_layout if layout else SingleDeviceSharding(self.device)
        return jax.ShapeDtypeStruct(array.shape, dtype or array.dtype, sharding=sharding)


def bytes_on_a_device(tree) -> int:
    """Bytes that a tree of shapes with shardings takes on one device."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))
