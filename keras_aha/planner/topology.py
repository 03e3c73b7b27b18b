"""Named topologies: devices to compile for, most of which are not there."""

import dataclasses
import importlib.util
import math
import os
import re

from keras_aha.distribution.devices import chip

import jax

# Chips → how libtpu lays them out.
_V2 = {1: "1x1", 4: "2x2", 16: "4x4", 64: "8x8", 128: "8x16", 256: "16x16"}
_SQUARES = _V2 | {8: "2x4", 32: "4x8"}
_CUBES = {1: "1x1x1", 4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8"}
_TPUS = {"v2": _V2, "v3": _V2, "v4": _CUBES, "v5e": _SQUARES, "v5p": _CUBES, "v6e": _SQUARES}
_SOLD_BY_CORE = ("v2", "v3", "v4", "v5p")  # "v4-8" has eight cores, two on each of four chips
_GPUS = {
    "t4": "Tesla T4",
    "v100": "Tesla V100-SXM2-16GB",
    "l4": "NVIDIA L4",
    "a100": "NVIDIA A100-SXM4-40GB",
    "h100": "NVIDIA H100 80GB HBM3",
    "h200": "NVIDIA H200",
}
_GPU_SHARE = 0.75  # of its memory, that JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices that programs are compiled for.

    Attributes:
        name: as it was asked for.
        devices: JAX devices. Those of another machine can compile and not run.
        device_kind: as JAX calls them, such as "TPU v5 lite".
        platform: "tpu", "gpu" or "cpu".
        memory: bytes that programs may use on one of them.
        compiles: whether their compiler is here; else `devices` only stand for them.
    """

    name: str
    devices: tuple
    device_kind: str
    platform: str
    memory: int
    compiles: bool = True


def find_topology(name: str) -> Topology:
    """The devices of a topology.

    Args:
        name: a TPU as it is sold, such as "v5e-8", or as libtpu lays it out, such as "v5e:2x4"; a GPU, such as "t4",
            or several, "t4x2"; "local", the accelerators that are here; or "cpu:8", so many devices of this CPU.

    Raises:
        ValueError: no such name, no such layout, or fewer devices here than are asked for.
        ImportError: if libtpu is missing, which compiles for TPUs.
    """
    if gpus := re.fullmatch(rf"({'|'.join(_GPUS)})(?:x([1-9]\d*))?", name):
        kind, devices = _GPUS[gpus[1]], _cpus(name, int(gpus[2] or 1))
        return Topology(name, tuple(devices), kind, "gpu", int(_GPU_SHARE * chip(kind).memory), compiles=False)
    if name == "local":
        devices = jax.devices()
        memory = _memory_here(devices[0])
    elif cpus := re.fullmatch(r"cpu(?::([1-9]\d*))?", name):
        devices = _cpus(name, int(cpus[1] or 1))
        memory = _memory_here(devices[0]) // len(devices)
    else:
        devices = _tpus(name)
        memory = chip(devices[0].device_kind).memory
    return Topology(name, tuple(devices), devices[0].device_kind, devices[0].platform, memory)


def tpu_layout(name: str) -> str:
    """libtpu's name of a TPU slice, such as "v5e:2x4" for "v5e-8".

    Raises:
        ValueError: a name or a size that there is not.
    """
    if re.fullmatch(r"(v\d\w?|tpu7x):\d+(x\d+){1,2}", name):
        return name
    match = re.fullmatch(r"(v\d\w?|v5litepod)-(\d+)", name)
    version = match and match[1].replace("v5litepod", "v5e")
    if version not in _TPUS:
        raise _unknown(name)
    layouts, cores = _TPUS[version], 2 if version in _SOLD_BY_CORE else 1
    chips, rest = divmod(int(match[2]), cores)
    if rest or chips not in layouts:
        sizes = ", ".join(f"{version}-{chips * cores}" for chips in sorted(layouts))
        raise ValueError(f"There is no slice of that size; there are {sizes}. Received: topology={name!r}")
    return f"{version}:{layouts[chips]}"


def _tpus(name: str) -> list:
    layout = tpu_layout(name)
    if importlib.util.find_spec("libtpu") is None:
        raise ImportError(
            'Planning for a TPU needs its compiler, which JAX does not bring. Run `pip install -e ".[plan]"`. '
            f"Received: topology={name!r}"
        )
    from jax.experimental import topologies

    # Without these libtpu looks for a machine's metadata, and a second process cannot load it.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    version, shape = layout.split(":")
    sizes = [int(size) for size in shape.split("x")]
    settings = {}
    if math.prod(sizes) < 4 or (version in ("v5e", "v6e") and math.prod(sizes) <= 8):
        settings["chips_per_host_bounds"] = (*sizes, 1)[:3]  # one host; libtpu takes all for hosts of four chips
    if version == "v4":
        settings["chip_config_name"] = "megacore"  # a chip's two cores are one device, as on a machine that has them
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=layout, **settings).devices
    except jax.errors.JaxRuntimeError as error:
        raise _unknown(name) from error


def _unknown(name: str) -> ValueError:
    return ValueError(
        f"No topology has that name. There are v2-8, v3-8, v4-8, v5e-1, v5e-8, v5p-8, v6e-1, v6e-8 and larger ones, "
        f'layouts as libtpu names them (v5e:2x4, v5p:2x2x1), {", ".join(_GPUS)} and t4x2, "local" for the accelerators '
        f"here, and cpu:8. Received: topology={name!r}"
    )


def _cpus(name: str, count: int) -> list:
    devices = jax.devices("cpu")
    if count > len(devices):
        raise ValueError(
            f"This process has {len(devices)} CPU devices, of which {count} are needed: start it with "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={count}. Received: topology={name!r}"
        )
    return devices[:count]


def _memory_here(device) -> int:
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
