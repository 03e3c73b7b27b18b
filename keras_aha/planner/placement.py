"""Where a run's arrays lie on the devices, as shapes with shardings."""

import jax
import keras
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding


class Placement:
    """Shardings of variables and of batches, for the distribution that is set now, or for a single device.

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
        """A `keras.Variable` as the distribution lays it out."""
        return jax.ShapeDtypeStruct(variable.shape, variable.dtype, sharding=self._of_variable(variable))

    def rows(self, array) -> jax.ShapeDtypeStruct:
        """An array whose first axis is a batch's; whole on each device where that cannot be split evenly."""
        sharding = SingleDeviceSharding(self.device)
        if self.distribution is not None:
            split = len(array.shape) > 0 and array.shape[0] % self.batch_parts == 0
            mesh = self.distribution.device_mesh.backend_mesh
            sharding = NamedSharding(mesh, PartitionSpec("batch") if split else PartitionSpec())
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding, weak_type=_weak(array))

    def _of_variable(self, variable):
        if self.distribution is None:
            return SingleDeviceSharding(self.device)
        return self.distribution.get_variable_layout(variable).backend_layout


def bytes_on_a_device(tree) -> int:
    """Bytes that a tree of shapes with shardings takes on one device."""
    return sum(_bytes(array) for array in jax.tree.leaves(tree))


def _bytes(array) -> int:
    shape = array.sharding.shard_shape(array.shape)
    return jax.ShapeDtypeStruct(shape, array.dtype).size * array.dtype.itemsize


def _weak(array) -> bool:
    return isinstance(array, jax.ShapeDtypeStruct) and array.weak_type
