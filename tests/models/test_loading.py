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


@pytest.fixture(scope="module")
def policy(make_policy):
    """Of 80 MB, beside which what else a process allocates is little."""
    return make_policy(num_layers=6, hidden_dim=512, intermediate_dim=4096)


@pytest.fixture(scope="module")
def report(policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("preset") / "tiny"
    policy.save_to_preset(str(folder))
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8",
        "PYTHONPATH": str(ROOT),
        "MALLOC_MMAP_THRESHOLD_": "65536",  # what is freed is given back
        "GLIBC_TUNABLES": "",
    }
    command = [sys.executable, __file__, str(folder)]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


def test_the_weights_are_those_of_the_preset(report, policy):
    assert report["sum"] == pytest.approx([float(abs(v.numpy()).sum()) for v in policy.backbone.variables], rel=1e-5)


def test_each_device_has_its_eighth(report):
    assert report["all"] > 8 * report["largest"]
    assert report["a device"] == (report["all"] - report["whole"]) // 8 + report["whole"]


def test_while_loading_no_more_than_a_variable_is_whole(report):
    assert 0 < report["alone"] < 2 * report["largest"]


@pytest.mark.skipif(not CLEAR_REFS.exists(), reason="Linux tells a process's peak memory")
def test_while_loading_the_host_holds_little_beside_the_shards(report):
    """Which lie in its memory too, as the devices are virtual; whole weights before them would be as much again."""
    assert report["all"] > 7e7
    assert report["all"] * 0.9 < report["host"] < report["all"] * 1.5


if __name__ == "__main__":
    in_parts(sys.argv[1])
