"""The device mesh, and the layout of a Gemma backbone on it."""

import keras
import numpy as np
from keras_hub.models import GemmaBackbone


def distribute(batch=None, model=1, devices=None):
    """Spreads the models that are built from now on over all devices.

    The devices form a mesh of `batch` × `model`. Each batch of data is split along "batch". Kernels are split along
    "model" by keras-hub's `GemmaBackbone.get_layout_map`: vocabulary, heads and feed-forward features. Hidden features,
    which it would split along "batch", stay whole, because every layer of every step would have to gather them first;
    LoRA adapters and norms are replicated. So `batch` must divide the batch size, and `model` the vocabulary and the
    numbers of query heads and of key-value heads; and with `model=1` every device holds all weights.

    Call it before the model is built: variables that exist stay where they are. On one device nothing is done, so the
    same script runs on a laptop.

    Args:
        batch: int, the number of parts of a batch; None for all devices that `model` leaves.
        model: int, the number of parts of a kernel.
        devices: what `keras.distribution.list_devices` gives, or JAX devices; None for all there are.

    Returns:
        The `keras.distribution.ModelParallel` that was set, or None on one device.

    Raises:
        ValueError: if `batch` or `model` is not a positive int, or batch × model is not the number of devices.
    """
    _check_positive_int("model", model)
    if batch is not None:
        _check_positive_int("batch", batch)
    devices = keras.distribution.list_devices() if devices is None else devices
    if len(devices) == 1:
        return None

    _check_mesh(batch, model, len(devices))
    mesh = keras.distribution.DeviceMesh((len(devices) // model, model), ("batch", "model"), np.array(devices))
    distribution = keras.distribution.ModelParallel(
        layout_map=_along_model(GemmaBackbone.get_layout_map(mesh)),
        batch_dim_name="batch",
        auto_shard_dataset=False,  # Keras can only shard a `tf.data.Dataset`
    )
    keras.distribution.set_distribution(distribution)
    return distribution


def batch_parts():
    """The number of parts into which a batch is split at present."""
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else distribution.device_mesh.shape[0]


def _along_model(layout_map):
    """The same layouts, without what is split along "batch"."""
    result = keras.distribution.LayoutMap(layout_map.device_mesh)
    for path, layout in layout_map.items():
        result[path] = tuple(axis if axis == "model" else None for axis in layout.axes)
    return result


def _check_positive_int(name, value):
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"`{name}` must be a positive int. Received: {name}={value!r}")


def _check_mesh(batch, model, devices):
    if devices % model == 0 and batch in (None, devices // model):
        return
    sizes = [size for size in range(1, devices + 1) if devices % size == 0]
    nearest = sorted(sizes, key=lambda size: abs(size - model))[:2]
    choices = " or ".join(f"batch={devices // size}, model={size}" for size in sorted(nearest))
    raise ValueError(
        f"`batch` times `model` must be the number of devices, which is {devices}: choose {choices}. "
        f"Received: batch={batch}, model={model}"
    )
