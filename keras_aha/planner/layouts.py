"""Where a run's arrays lie on the devices, as shapes with shardings."""

import math

import jax
import keras
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding


class Layouts:
    """Shapes with shardings, under the distribution that is set now, or of a single device.

    Args:
        devices: those that programs are compiled for.
    """

    def __init__(self, devices):
        self.distribution = keras.distribution.distribution()
        self.device = devices[0]

    @property
    def batch_parts(self) -> int:
        """Into how many parts a batch is split."""
        return 1 if self.distribution is None else self.distribution.device_mesh.shape[0]

    def variable(self, variable) -> jax.ShapeDtypeStruct:
        """A `keras.Variable`, as the distribution lays it out."""
        sharding = SingleDeviceSharding(self.device)
        if self.distribution is not None:
            sharding = self.distribution.get_variable_layout(variable).backend_layout
        return jax.ShapeDtypeStruct(variable.shape, variable.dtype, sharding=sharding)

    def batch(self, array) -> jax.ShapeDtypeStruct:
        """An array of a batch, whose first axis is split."""
        return self.split(array, "batch")

    def split(self, array, *axes: str) -> jax.ShapeDtypeStruct:
        """An array, its first axes along these of the mesh; on a single device it is whole."""
        sharding = SingleDeviceSharding(self.device)
        if self.distribution is not None:
            sharding = NamedSharding(self.distribution.device_mesh.backend_mesh, PartitionSpec(*axes))
        weak = isinstance(array, jax.ShapeDtypeStruct) and array.weak_type
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding, weak_type=weak)


def bytes_on_a_device(tree) -> int:
    """Bytes that a tree of shapes with shardings takes on one device."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))
