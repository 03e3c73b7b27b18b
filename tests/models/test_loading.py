"""Weights that are split go to their devices one by one: neither a device nor the host ever has all of them at once."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLEAR_REFS = Path("/proc/self/clear_refs")


def in_parts(folder):
    """Runs in a child process with eight devices: loads a preset and watches what lies on one device alone."""
    import keras_aha as aha

    import jax
    import keras

    distribution = aha.distribute(weights="split", preset=folder, dtype="float32")
    assign, most = keras.Variable.assign, 0

    def watch(variable, value):
        nonlocal most
        result = assign(variable, value)
        most = max(most, sum(x.nbytes for x in jax.live_arrays() if len(x.sharding.device_set) == 1))
        return result

    keras.Variable.assign = watch
    variables = aha.load_policy(folder, lora_rank=2).backbone.variables
    shards = [shard.data.nbytes for variable in variables for shard in variable.value.addressable_shards[:1]]
    report = {
        "alone": most,
        "largest": max(variable.value.nbytes for variable in variables),
        "all": sum(variable.value.nbytes for variable in variables),
        "a device": sum(shards),
        "whole": sum(v.value.nbytes for v in variables if "batch" not in distribution.get_variable_layout(v).axes),
        "sum": [float(abs(variable.numpy()).sum()) for variable in variables if "lora" not in variable.path],
    }
    keras.Variable.assign = assign
    del variables, watch
    report["host"] = taken(lambda: aha.load_policy(folder, lora_rank=2)) if CLEAR_REFS.exists() else None
    json.dump(report, sys.stdout)


def taken(load) -> int:
    """Bytes by which this process grows while it loads the same once more, all programs being compiled."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from process import forget_peak, peak_mib, resident_mib

    gc.collect()
    before = resident_mib()
    forget_peak()
    loaded = load()
    grown = peak_mib() - before
    del loaded
    return int(grown * 2**20)


def test_loading_in_parts(make_policy, tmp_path):
    policy = make_policy(num_layers=6, hidden_dim=512, intermediate_dim=4096)  # 80 MB, much of what a process allocates
    policy.save_to_preset(str(tmp_path / "tiny"))
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8",
        "PYTHONPATH": str(ROOT),
        "MALLOC_MMAP_THRESHOLD_": "65536",  # what is freed is given back
        "GLIBC_TUNABLES": "",
    }
    command = [sys.executable, __file__, str(tmp_path / "tiny")]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert child.returncode == 0, child.stderr
    report = json.loads(child.stdout)
    assert report["sum"] == pytest.approx([float(abs(v.numpy()).sum()) for v in policy.backbone.variables], rel=1e-5)
    assert report["all"] > max(7e7, 8 * report["largest"])
    assert report["a device"] == (report["all"] - report["whole"]) // 8 + report["whole"]
    assert 0 < report["alone"] < 2 * report["largest"]  # on one device, no more than a variable is whole
    if CLEAR_REFS.exists():  # Linux tells a process's peak memory, in which the shards of virtual devices lie too
        assert report["all"] * 0.9 < report["host"] < report["all"] * 1.5  # whole weights would be as much again


if __name__ == "__main__":
    in_parts(sys.argv[1])
