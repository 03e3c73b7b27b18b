"""The device mesh: how many parts a batch and a kernel are split into, for training and for rollouts."""

import contextlib
import functools
import math

from keras_aha.distribution.devices import chip
from keras_aha.distribution.gemma_parallel import GEMMAS, GemmaParallel, check_heads
from keras_aha.models.abstract_backbone import abstract_backbone
from keras_aha.models.internals import set_value

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

_WEIGHTS = ("auto", "whole", "split")
_SHARE = 0.75  # of a device's memory, that weights may take


def distribute(
    batch: int | None = None,
    model: int = 1,
    *,
    weights: str = "auto",
    rollout_model: int | None = None,
    preset: str | None = None,
    dtype: str = "bfloat16",
    devices=None,
) -> GemmaParallel | None:
    """Spreads the models that are built from now on over all devices: a Gemma's weights and rows, of others rows alone.

    The devices form a mesh of `batch` × `model`. Each batch of data is split along "batch". Kernels are split along
    "model" by vocabulary, heads and feed-forward features, and adapters with them. So `batch` must divide the batch
    size, and `model` the number of query heads. Key-value heads that it does not divide are whole on each device.

    Along "batch", weights are whole, which needs no collective but the sum of gradients, or split too (FSDP,
    arXiv:2304.11277) and gathered layer by layer. Rollouts have a copy of the weights, adapters merged. It is laid out
    once a rollout: whole on each device if there is room, so that a device decodes its rows alone, or split by heads.

    Call it before the model is built: variables that exist stay where they are. On one device nothing is done, so the
    same script runs on a laptop.

        distribution = aha.distribute(preset="gemma2_9b_en")
        policy = aha.load_policy("gemma2_9b_en", dtype="bfloat16")
        print(distribution.describe(policy))

    Args:
        batch: the number of parts of a batch; `None` for all devices that `model` leaves.
        model: the number of parts of a kernel.
        weights: "whole" or "split" along "batch". "auto" splits them if training's and a rollout's would take more
            than three quarters of a device's memory; without a `preset` it cannot tell and leaves them whole.
        rollout_model: the number of parts of a kernel in rollouts; `None` takes the fewest for which there is memory.
        preset, dtype: of the model, for the choices above: a name that keras-hub knows, or a folder.
        devices: what `keras.distribution.list_devices` gives, or JAX devices; `None` for all there are.

    Returns:
        The distribution that was set, or `None` on one device.

    Raises:
        ValueError: if a number of parts is not a positive int or does not divide the devices (of rollouts: those of one
            process), or the query heads of the `preset`, or `weights` is no such word, or weights would be split that
            are not a Gemma's. Without a `preset`, heads that cannot be split raise when their kernel is made.
    """
    _check_arguments(batch, model, weights, rollout_model)
    devices = _in_order(jax.devices() if devices is None else devices)
    if len(devices) == 1:
        return None
    _check_mesh(batch, model, len(devices))
    local = [device for device in devices if device.process_index == jax.process_index()]
    size, heads, memory = 0, None, math.inf  # without a preset, as if there were room for everything
    if preset is not None:
        backbone = abstract_backbone(preset, dtype)
        if isinstance(backbone, GEMMAS):
            size = sum(math.prod(v.shape) * jnp.dtype(v.dtype).itemsize for v in backbone.variables)
            heads, memory = backbone.num_query_heads, _SHARE * _memory(local[0])
            check_heads(heads, model, len(devices))
        else:
            _check_whole(backbone, model, weights, rollout_model)
            rollout_model = 1
    is_split = weights == "split" or (weights == "auto" and 2 * size / model > memory)
    if rollout_model is None:
        rest = memory - size / (len(devices) if is_split else model)
        rollout_model = _rollout_parts(size, heads, rest, len(local))
    else:
        _check_rollout_parts(rollout_model, heads, len(local))
    rollouts = GemmaParallel(_mesh(devices, rollout_model))
    distribution = GemmaParallel(_mesh(devices, model), split_weights=is_split, rollouts=rollouts)
    keras.distribution.set_distribution(distribution)
    return distribution


def _rollout_parts(size: int, heads: int | None, memory: float, devices: int) -> int:
    """The fewest parts of `size` bytes of weights for which a device has room, of those that divide the heads."""
    choices = [parts for parts in _divisors(devices) if heads is None or heads % parts == 0]
    for parts in choices:
        # If a device has a part of the weights, a third of its memory stays free for keys and values.
        if size / parts <= memory * (1 if parts == 1 else 2 / 3):
            return parts
    return choices[-1]


def batch_parts() -> int:
    """The number of parts into which a batch is split at present."""
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else distribution.device_mesh.shape[0]


# === Rows ===


def check_batch(prompts_per_epoch: int, group_size: int, micro_batch_size: int | None) -> None:
    """Raises ValueError if the rows of a step, or of a micro-batch, cannot be split over the devices."""
    rows, parts = prompts_per_epoch * group_size, batch_parts()
    if rows % parts:
        step = parts // math.gcd(parts, group_size)
        below = prompts_per_epoch // step * step
        raise ValueError(
            f"The {rows} completions of a step cannot be split into {parts} equal parts, one for each device along "
            f'"batch": choose prompts_per_epoch={_any(n for n in (below, below + step) if n)}. Received: '
            f"prompts_per_epoch={prompts_per_epoch}, group_size={group_size}, batch={parts}"
        )
    sizes = [size for size in _divisors(rows) if size % parts == 0]
    if micro_batch_size is not None and micro_batch_size not in sizes:
        below = [size for size in sizes if size < micro_batch_size][-1:]
        above = [size for size in sizes if size > micro_batch_size][:1]
        devices = f" and be a multiple of the {parts} devices that split it" if parts > 1 else ""
        raise ValueError(
            f"micro_batch_size must divide the {rows} rows of a step{devices}: choose {_any(below + above)}. "
            f"Received: micro_batch_size={micro_batch_size}"
        )


def global_rows(tree):
    """This process's rows of NumPy arrays as its part of arrays on all devices; on one device they stay as they are."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return tree
    make = jax.make_array_from_process_local_data
    return jax.tree.map(lambda x: make(distribution.get_data_layout(x.shape).backend_layout, x), tree)


def split_rows(array):
    """`array`, inside a jit, its rows split over the devices as those of a batch are."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return array
    return jax.lax.with_sharding_constraint(array, distribution.get_data_layout(array.shape).backend_layout)


def local_rows(array: jax.Array) -> np.ndarray:
    """This process's rows of an array whose rows are split over all devices."""
    if array.is_fully_addressable:
        return np.asarray(array)
    shards = {shard.index[0].start: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])


def over_mesh(function, query, keys, values, starts):
    """Attention of each device's rows and heads, by a `function` that XLA cannot split.

    Args:
        function: `(query, keys, values, starts)` → what is like the query.
        query: `(B, t, N, H)`.
        keys, values: `(B, S, K, H)`.
        starts: `(B,)`.
    """
    distribution = keras.distribution.distribution()
    if distribution is None:
        return function(query, keys, values, starts)
    mesh = distribution.device_mesh.backend_mesh
    if keys.shape[2] % mesh.shape["model"]:  # a device would have queries of some heads and keys of none
        keys, values = (jnp.repeat(x, query.shape[2] // x.shape[2], axis=2) for x in (keys, values))
    heads = PartitionSpec("batch", None, "model")
    specs = dict(in_specs=(heads, heads, heads, PartitionSpec("batch")), out_specs=heads)
    return jax.shard_map(function, mesh=mesh, **specs, check_vma=False)(query, keys, values, starts)


# === Weights ===


@contextlib.contextmanager
def whole(variables):
    """Lays variables out whole on each process, so that one can save them, then as before. All processes must enter."""
    before = [variable.value for variable in variables]
    for variable, value in zip(variables, before, strict=True):
        if not (value.is_fully_addressable or value.is_fully_replicated):
            set_value(variable, jax.device_put(value, NamedSharding(value.sharding.mesh, PartitionSpec())))
    try:
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            set_value(variable, value)


def rollout_values(variables, values) -> list[jax.Array]:
    """Moves values of a backbone's variables to this process's devices, as `distribute` lays rollouts' weights out."""
    values, distribution = list(values), keras.distribution.distribution()
    if distribution is None:
        return values
    pairs = zip(variables, values, strict=True)
    layouts = [distribution.rollouts.layout(v.path, x.shape).backend_layout for v, x in pairs]
    moved = [i for i, x in enumerate(values) if not x.sharding.is_equivalent_to(layouts[i], x.ndim)]
    if moved:
        # By one program: with several processes each array's own would wait for the others' devices, in some order.
        arrays = _laid_out(tuple(layouts[i] for i in moved))([values[i] for i in moved])
        for i, array in zip(moved, arrays, strict=True):
            values[i] = array
    return values if jax.process_count() == 1 else list(map(_of_this_process, values))


@functools.cache
def _laid_out(layouts: tuple[NamedSharding, ...]):
    return jax.jit(lambda arrays: arrays, out_shardings=list(layouts))


def _of_this_process(value: jax.Array) -> jax.Array:
    """The same array on the devices of this process alone. Each keeps what it has."""
    sharding = NamedSharding(value.sharding.mesh.local_mesh, value.sharding.spec)
    # On one device `addressable_shards` of JAX 0.10 fails on what was moved.
    alone = len(sharding.addressable_devices) == 1
    shards = [value.addressable_data(0)] if alone else [shard.data for shard in value.addressable_shards]
    return jax.make_array_from_single_device_arrays(value.shape, sharding, shards)


# === The mesh ===


def _in_order(devices) -> list[jax.Device]:
    """JAX devices, those of a process together, so that rows that a process has made lie on its own."""
    known = {f"{device.platform}:{device.id}": device for device in jax.devices()}
    devices = [known[device] if isinstance(device, str) else device for device in np.array(devices).ravel()]
    return sorted(devices, key=lambda device: (device.process_index, device.id))


def _mesh(devices, model: int):
    return keras.distribution.DeviceMesh((len(devices) // model, model), ("batch", "model"), np.array(devices))


def _memory(device) -> float:
    """Bytes that programs may use. A device that is not here, for which the planner compiles, tells no statistics."""
    if known := chip(device.device_kind):
        return known.memory
    return (device.memory_stats() or {}).get("bytes_limit", math.inf)  # `None` on a CPU


def _check_arguments(batch, model, weights, rollout_model) -> None:
    for name, value in {"batch": batch, "model": model, "rollout_model": rollout_model}.items():
        is_positive_int = isinstance(value, int) and not isinstance(value, bool) and value > 0
        if not is_positive_int and (value is not None or name == "model"):
            raise ValueError(f"`{name}` must be a positive int. Received: {name}={value!r}")
    if weights not in _WEIGHTS:
        raise ValueError(f"`weights` must be one of {', '.join(_WEIGHTS)}. Received: weights={weights!r}")


def _check_whole(backbone, model, weights, rollout_model) -> None:
    """Raises ValueError if weights are to be split for which there is no layout."""
    if model > 1 or (rollout_model or 1) > 1 or weights == "split":
        raise ValueError(
            "Only a Gemma's weights can be split; another model's are whole on each device, which has a part of the "
            f"batch: leave `model`, `rollout_model` and `weights` out. Received: model={model}, "
            f"rollout_model={rollout_model}, weights={weights!r}, and a {type(backbone).__name__}"
        )


def _check_rollout_parts(rollout_model, heads, devices) -> None:
    if devices % rollout_model:
        raise ValueError(
            f"`rollout_model` must divide the devices of a process, which are {devices}: choose "
            f"{_any(_divisors(devices))}. Received: rollout_model={rollout_model}"
        )
    if heads is not None:
        check_heads(heads, rollout_model, devices, "rollout_model")


def _check_mesh(batch, model, devices):
    if devices % model == 0 and batch in (None, devices // model):
        return
    nearest = sorted(sorted(_divisors(devices), key=lambda size: abs(size - model))[:2])
    choices = _any(f"batch={devices // size}, model={size}" for size in nearest)
    raise ValueError(
        f"`batch` times `model` must be the number of devices, which is {devices}: choose {choices}. "
        f"Received: batch={batch}, model={model}"
    )


def _any(choices) -> str:
    return " or ".join(map(str, choices))


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]
