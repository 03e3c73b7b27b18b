"""Named topologies: devices to compile for, most of which are not there."""

import dataclasses
import importlib.util
import math
import os
import re

from keras_aha.distribution.devices import chip

import jax

_SQUARES = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBES = {1: "1x1x1", 4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8"}
# Chips → layout of each TPU, and the cores of a chip where the name that people use counts those.
_TPUS = {
    "v2": ({1: "1x1", 4: "2x2", 16: "4x4", 64: "8x8", 128: "8x16", 256: "16x16"}, 2),
    "v3": ({1: "1x1", 4: "2x2", 16: "4x4", 64: "8x8", 128: "8x16", 256: "16x16"}, 2),
    "v4": (_CUBES, 2),
    "v5e": (_SQUARES, 1),
    "v5p": (_CUBES, 2),
    "v6e": (_SQUARES, 1),
}
_GPUS = {
    "t4": "Tesla T4",
    "v100": "Tesla V100-SXM2-16GB",
    "l4": "NVIDIA L4",
    "a100": "NVIDIA A100-SXM4-40GB",
    "h100": "NVIDIA H100 80GB HBM3",
    "h200": "NVIDIA H200",
}
_KNOWN = f"v2-8, v3-8, v4-8, v5e-1, v5e-4, v5e-8, v5p-8, v6e-1, v6e-4, v6e-8, v6e-16, {', '.join(_GPUS)} and t4x2"
_GPU_SHARE = 0.75  # of its memory, that JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices that programs are compiled for.

    Attributes:
        name: as it was asked for.
        devices: JAX devices, of which those of another machine can compile and not run.
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

    @classmethod
    def of(cls, name: str, devices, memory: int) -> "Topology":
        """Of devices whose compiler is here."""
        return cls(name, tuple(devices), devices[0].device_kind, devices[0].platform, memory)


def find_topology(name: str) -> Topology:
    """The devices of a topology.

    Args:
        name: a TPU as it is sold, such as "v5e-8", or as libtpu lays it out, such as "v5e:2x4"; a GPU, such as "t4",
            or several, "t4x2"; "local", the accelerators that are here; or "cpu:8", so many devices of this CPU.

    Raises:
        ValueError: a name that is neither, a layout that there is not, or fewer devices here than are asked for.
        ImportError: if libtpu is missing, which compiles for TPUs.
    """
    if name == "local":
        return Topology.of(name, jax.devices(), _memory_here(jax.devices()))
    if match := re.fullmatch(r"cpu(?::([1-9]\d*))?", name):
        devices = _cpus(name, int(match[1] or 1))
        return Topology.of(name, devices, _memory_here(devices) // len(devices))
    match = re.fullmatch(r"([a-z]+\d+)(?:x([1-9]\d*))?", name)
    if match and match[1] in _GPUS:
        kind, devices = _GPUS[match[1]], _cpus(name, int(match[2] or 1))
        return Topology(name, tuple(devices), kind, "gpu", int(_GPU_SHARE * chip(kind).memory), compiles=False)
    layout = _layout(name)
    if importlib.util.find_spec("libtpu") is None:
        raise ImportError(
            'Planning for a TPU takes its compiler, which is no part of JAX: `pip install -e ".[plan]"` brings it. '
            f"Received: topology={name!r}"
        )
    devices = _tpu_devices(name, layout)
    return Topology.of(name, devices, chip(devices[0].device_kind).memory)


def _layout(name: str) -> str:
    """libtpu's name."""
    if match := re.fullmatch(r"(v\d\w?|tpu7x):(\d+(?:x\d+){1,2})", name):
        return name
    match = re.fullmatch(r"(v\d\w?|v5litepod)-(\d+)", name)
    version = match and match[1].replace("v5litepod", "v5e")
    if version not in _TPUS:
        raise _unknown(name)
    layouts, cores = _TPUS[version]
    chips, rest = divmod(int(match[2]), cores)
    if rest or chips not in layouts:
        sizes = ", ".join(f"{version}-{chips * cores}" for chips in layouts)
        raise ValueError(f"There is no slice of that size; there are {sizes}. Received: topology={name!r}")
    return f"{version}:{layouts[chips]}"


def _tpu_devices(name: str, layout: str) -> list:
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
        f"No topology has that name: there are {_KNOWN} and larger ones, layouts as libtpu names them (v5e:2x4, "
        f'v5p:2x2x1), "local" for the accelerators here, and cpu:8. Received: topology={name!r}'
    )


def _cpus(name: str, count: int) -> list:
    devices = jax.devices("cpu")
    if count > len(devices):
        raise ValueError(
            f"This process has {len(devices)} CPU devices, of which {count} are needed: start it with "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={count}. Received: topology={name!r}"
        )
    return devices[:count]


def _memory_here(devices) -> int:
    stats = devices[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
