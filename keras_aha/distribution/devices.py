"""Devices: published numbers of accelerators, and the memory that is taken now.

Numbers are of one JAX device. That is a chip; of TPU v2, v3 and v7x it is one of a chip's two cores.
"""

import dataclasses
import os
import sys
from pathlib import Path

import jax


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one JAX device can do."""

    tflops: dict[str, float]  # dense products, 10¹² a second, by dtype; one that is missing is not computed in
    memory: float  # bytes for programs, of a TPU as libtpu 0.0.42 states them of a program too large for it
    bandwidth: float  # bytes a second between memory and cores
    interconnect: float = 0.0  # bytes a second that leave for other devices, over all links; 0 by the host's bus alone
    devices_per_chip: int = 1  # JAX devices on what is sold as a chip


def chip(device_kind: str) -> Chip | None:
    """The numbers of a device, by its `jax.Device.device_kind`; `None` for others, such as a CPU or a part of a GPU."""
    return _CHIPS.get(device_kind)


def _tpu(tflops: float, gib: float, bandwidth: float, interconnect: float, devices: int = 1) -> Chip:
    """From numbers of a chip, GB/s, but for the GiB, which are a device's."""
    # JAX multiplies float32 as bfloat16 on a TPU: https://docs.jax.dev/en/latest/jax.lax.html#jax.lax.Precision
    peak = dict.fromkeys(("bfloat16", "float32"), tflops / devices)
    return Chip(peak, int(gib * 2**30), bandwidth / devices * 1e9, interconnect / devices * 1e9, devices)


def _gpu(half: float, float32: float, gb: float, bandwidth: float, halves=("bfloat16", "float16"), link=0.0) -> Chip:
    return Chip({**dict.fromkeys(halves, half), "float32": float32}, gb * 10**9, bandwidth * 1e9, link * 1e9)


_VOLTA = ("float16",)  # Volta and Turing have no bfloat16
# https://docs.cloud.google.com/tpu/docs/v5e and …/v5p; half of the interconnect's "bidirectional" bandwidth
_V5E = _tpu(197, 15.75, 819, 400 / 2)
_V5P = _tpu(459, 95.74, 2765, 1200 / 2)
_V6E = _tpu(918, 31.25, 1638, 800 / 2)  # https://docs.cloud.google.com/tpu/docs/v6e
# https://images.nvidia.com/content/technologies/volta/pdf/volta-v100-datasheet-update-us-1165301-r5.pdf
_V100_SXM = dict(half=125, float32=15.7, bandwidth=900, halves=_VOLTA, link=150)
_V100_PCIE = dict(half=112, float32=14, bandwidth=900, halves=_VOLTA)
# https://www.nvidia.com/en-us/data-center/a100/; half of NVLink's, which counts both directions, as in the next ones
_A100 = dict(half=312, float32=156)
# On GPUs float32 is TF32 where there is that (Ampere and later), as JAX multiplies it by default (see above). NVIDIA
# quotes Ada and Hopper with sparsity, which doubles it. Memory is what is sold; a driver and JAX take some of it.
_CHIPS = {
    # Table 3 of https://doi.org/10.1145/3360307: a chip's 46 TFLOP/s, 700 GB/s, 4 links of 496 Gbit/s
    "TPU v2": _tpu(46, 7.48, 700, 4 * 496 / 8, devices=2),
    # The same, 4 links of 656 Gbit/s; https://docs.cloud.google.com/tpu/docs/v3: 123 a chip
    "TPU v3": _tpu(123, 15.48, 900, 4 * 656 / 8, devices=2),
    # https://docs.cloud.google.com/tpu/docs/v4; 6 links of 50 GB/s, table 4 of arXiv:2304.01433
    "TPU v4": _tpu(275, 30.75, 1200, 6 * 50),
    "TPU v5 lite": _V5E,
    "TPU v5e": _V5E,
    "TPU v5": _V5P,
    "TPU v5p": _V5P,
    "TPU v6 lite": _V6E,
    "TPU v6e": _V6E,
    "TPU7x": _tpu(2307, 94.75, 7380, 1200 / 2, devices=2),  # https://docs.cloud.google.com/tpu/docs/tpu7x
    # https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/tesla-t4/t4-tensor-core-datasheet-951643.pdf
    "Tesla T4": _gpu(65, 8.1, 16, 320, _VOLTA),
    "Tesla V100-SXM2-16GB": _gpu(gb=16, **_V100_SXM),
    "Tesla V100-SXM2-32GB": _gpu(gb=32, **_V100_SXM),
    "Tesla V100-PCIE-16GB": _gpu(gb=16, **_V100_PCIE),
    "Tesla V100-PCIE-32GB": _gpu(gb=32, **_V100_PCIE),
    "NVIDIA L4": _gpu(242 / 2, 120 / 2, 24, 300),  # https://www.nvidia.com/en-us/data-center/l4/
    "NVIDIA A100-SXM4-40GB": _gpu(**_A100, gb=40, bandwidth=1555, link=300),
    "NVIDIA A100-SXM4-80GB": _gpu(**_A100, gb=80, bandwidth=2039, link=300),
    "NVIDIA A100-PCIE-40GB": _gpu(**_A100, gb=40, bandwidth=1555),
    "NVIDIA A100 80GB PCIe": _gpu(**_A100, gb=80, bandwidth=1935),
    # https://www.nvidia.com/en-us/data-center/h100/
    "NVIDIA H100 80GB HBM3": _gpu(1979 / 2, 989 / 2, 80, 3350, link=450),
    "NVIDIA H100 PCIe": _gpu(1513 / 2, 756 / 2, 80, 2000),
    "NVIDIA H200": _gpu(1979 / 2, 989 / 2, 141, 4800, link=450),  # https://www.nvidia.com/en-us/data-center/h200/
}


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """The most dense floating-point operations a second of a `jax.Device.device_kind`, by the dtype of products.

    It is `None` for a device or a dtype that is not in the table.
    """
    known = chip(device_kind)
    tflops = known and known.tflops.get(dtype)
    return tflops and tflops * 1e12


def memory_gb() -> dict[str, float]:
    """Memory that is taken, in GB of 10⁹ bytes: on the local device that has taken most, or by the process on a CPU.

    It has `memory_gb`, now, and `peak_memory_gb`, the most since the process began, if the system tells them.
    """
    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        return {name: taken / 1e9 for name, taken in _resident_bytes().items()}
    stats = [stats for device in devices if (stats := device.memory_stats())]
    if not stats:
        return {}
    names = {"memory_gb": "bytes_in_use", "peak_memory_gb": "peak_bytes_in_use"}
    return {name: max(device[key] for device in stats) / 1e9 for name, key in names.items()}


def _resident_bytes() -> dict[str, int]:
    taken = {}
    statm = Path("/proc/self/statm")  # Linux; proc(5)
    if statm.exists():
        taken["memory_gb"] = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    try:
        import resource
    except ImportError:  # Windows has none
        return taken
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere; getrusage(2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    taken["peak_memory_gb"] = max([peak, *taken.values()])  # the system may be slow to count
    return taken
