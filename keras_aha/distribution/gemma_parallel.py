"""`GemmaParallel`: where the variables of a Gemma lie on a mesh of devices."""

import collections
import math
import re

from keras_aha.models.internals import layout_of

import jax.numpy as jnp
import keras
from keras.distribution import LayoutMap, TensorLayout
from keras_hub.models import Gemma3Backbone, Gemma4Backbone, GemmaBackbone

GEMMAS = (GemmaBackbone, Gemma3Backbone, Gemma4Backbone)  # whose layers have the names that are laid out here

_ADAPTER = re.compile(r"(.*)/lora_(kernel|embeddings)_(a|b)")
_QUERY_HEADS = re.compile(r".*attention/(query|attention_output)/kernel")


class GemmaParallel(keras.distribution.ModelParallel):
    """Lays out any of keras-hub's Gemmas, adapters included, on a mesh with the axes "batch" and "model".

    Each batch of data is split along "batch". Weights are split by keras-hub's layout map for Gemma, whose names Gemma
    2, 3 and 4 share: vocabulary, heads and feed-forward features along "model", and with `split_weights` hidden
    features along "batch", which are gathered before each use (`fsdp.gathering`).

    What an axis does not divide, such as a single key-value head, is whole. An adapter lies along "model" as its kernel
    does, and is whole along "batch": it is small, and only its gradient has to be summed.

    Args:
        mesh: a `keras.distribution.DeviceMesh` with these axes.
        split_weights: see above.
        rollouts: a `GemmaParallel` of the same devices for the weights of rollouts; `None` leaves them as in training.
    """

    def __init__(self, mesh, split_weights: bool = False, rollouts: "GemmaParallel | None" = None):
        # Keras can only shard a `tf.data.Dataset`.
        super().__init__(layout_map=_rules(mesh, split_weights), batch_dim_name="batch", auto_shard_dataset=False)
        self.rollouts = rollouts or self
        self._sizes = dict(zip(mesh.axis_names, mesh.shape, strict=True))

    def get_variable_layout(self, variable) -> TensorLayout:
        """Keras asks for it when it makes a variable; an optimizer's variables lie as those that they belong to."""
        return self.layout(variable.path, variable.shape) if layout_of(variable) is None else layout_of(variable)

    def layout(self, path: str, shape) -> TensorLayout:
        """Where a variable lies; ValueError if "model" does not divide the number of query heads."""
        if _QUERY_HEADS.fullmatch(path):
            check_heads(shape[0], self._sizes["model"], math.prod(self._sizes.values()))
        axes = self._axes(path, len(shape))
        pairs = zip(axes, shape, strict=True)
        axes = [axis if axis is not None and size % self._sizes[axis] == 0 else None for axis, size in pairs]
        return TensorLayout(axes, self.device_mesh)

    def _axes(self, path: str, rank: int) -> list:
        """The mesh's axis that each axis of a variable is to be split along, if it can be."""
        adapter = _ADAPTER.fullmatch(path)
        rule = self.get_tensor_layout("{}/{}".format(*adapter.groups()) if adapter else path)
        axes = [None] * rank if rule is None else list(rule.axes)
        if adapter:
            axes = [axis if axis == "model" else None for axis in axes]
            axes = [*axes[:-1], None] if adapter[3] == "a" else [None, axes[-1]]
        return axes if len(axes) == rank else [None] * rank  # such as the scale of a quantized kernel

    def describe(self, layer) -> str:
        """A table of a built layer's variables: number, shape, how split, bytes a device. All blocks share their lines.
        """
        groups = collections.defaultdict(list)
        for variable in layer.variables:
            path = re.sub(r"(?<=block_)\d+", "*", variable.path)
            groups[path, tuple(variable.shape), variable.dtype].append(variable)
        rows, total = [], 0.0
        for (path, shape, dtype), variables in groups.items():
            axes = self.get_variable_layout(variables[0]).axes
            parts = math.prod(self._sizes[axis] for axis in axes if axis)
            split = ", ".join(f"{size} by {axis}" for size, axis in zip(shape, axes, strict=True) if axis)
            size = len(variables) * math.prod(shape) * jnp.dtype(dtype).itemsize / parts
            total += size
            rows.append((path, f"{len(variables)} ×", str(shape), dtype, split or "whole", _bytes(size)))
        rows.append(("all", "", "", "", "", _bytes(total)))
        mesh = " × ".join(f"{size} {axis}" for axis, size in self._sizes.items())
        rows.insert(0, ("variable", "", "shape", "dtype", f"split ({mesh})", "a device"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def check_heads(heads: int, parts: int, devices: int, name: str = "model") -> None:
    """Raises ValueError, with numbers that work, if query heads cannot be split into `parts`, the argument `name`."""
    if heads % parts:
        choices = [size for size in range(1, devices + 1) if heads % size == 0 == devices % size]
        raise ValueError(
            f"`{name}` must divide the number of query heads, which is {heads}, and of devices, which is {devices}: "
            f"choose {' or '.join(map(str, choices))}. Received: {name}={parts}"
        )


def _bytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"


def _rules(mesh, split_weights: bool) -> LayoutMap:
    """keras-hub's layouts, without what is split along "batch" unless that is wanted."""
    rules = LayoutMap(mesh)
    for path, layout in GemmaBackbone.get_layout_map(mesh).items():
        rules[path] = tuple(axis if split_weights or axis == "model" else None for axis in layout.axes)
    return rules
