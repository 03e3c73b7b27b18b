"""Peaks against chips' data sheets, memory against what is allocated."""

from keras_aha.distribution.devices import memory_gb, peak_flops

import numpy as np
import pytest


@pytest.mark.parametrize(
    "device_kind, dtype, tflops",
    [
        ("TPU v3", "bfloat16", 61.5),  # a core
        ("TPU v5 lite", "float32", 197),
        ("TPU7x", "bfloat16", 1153.5),  # half a chip
        ("NVIDIA H200", "bfloat16", 989.5),
        ("Tesla T4", "float16", 65),
        ("Tesla T4", "bfloat16", None),
        ("NVIDIA A100-SXM4-40GB", "float32", 156),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bfloat16", None),
    ],
)
def test_peaks(device_kind, dtype, tflops):
    assert peak_flops(device_kind, dtype) == (tflops and tflops * 1e12)


def test_memory_of_the_process_grows_with_what_it_holds():
    before = memory_gb()
    held = np.ones(25_000_000)  # 0.2 GB
    after = memory_gb()
    del held
    released = memory_gb()
    assert 0.15 < after["memory_gb"] - before["memory_gb"] < 0.25
    assert after["memory_gb"] - released["memory_gb"] > 0.15
    assert released["peak_memory_gb"] >= after["memory_gb"] - 0.01
