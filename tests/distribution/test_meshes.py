"""On any mesh, and in several processes, a policy samples, scores and learns what it does on one device.

A process chooses its devices once, so `mesh_epochs.py` runs in processes of its own.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

# Eight query heads, and two of keys and values, which are whole if there are more parts.
MESHES = {"alone": None, "1x4": {"model": 4}, "4x1 split": {"weights": "split"}}
TWO_PROCESSES = {"2x2 split": {"model": 2, "weights": "split", "rollout_model": 2}}
SAME = ("token_ids", "rewards", "val_texts", "refill_tokens", "refilled_groups", "reward", "val_accuracy", "truncated")
SAME += ("observed", "transcripts", "val_transcripts", "turns", "tool_calls", "observation_tokens", "generated_tokens")
SAME += ("val_reward_long", "checksums", "moved")  # these two of adapters, bit by bit
CLOSE = {"old_log_probs": 1e-5, "first_adapters": 1e-5, "adapters": 1e-5, "loss": 1e-6, "losses": 1e-6, "kl": 1e-6}


def run(folder, meshes, devices, processes=1):
    """`(mesh, process)` → arrays."""
    tests = Path(__file__).parents[1]
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
        "NPROC": str(4 * devices),  # XLA's threads: a device that waits for another holds one
        "PYTHONPATH": str(tests.parent),
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, tests / "mesh_epochs.py", folder, json.dumps(list(meshes.values()))]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    several = [[str(port), str(processes), str(i)] if processes > 1 else [] for i in range(processes)]
    children = [subprocess.Popen([*command, *arguments], env=environment, **pipes) for arguments in several]
    for child in children:
        output, _ = child.communicate(timeout=600)
        assert child.returncode == 0, output
    return {(name, i): np.load(folder / f"{m}-{i}.npz") for m, name in enumerate(meshes) for i in range(processes)}


@pytest.fixture(scope="module")
def meshes(tmp_path_factory):
    return run(tmp_path_factory.mktemp("meshes"), MESHES, devices=4)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    return run(tmp_path_factory.mktemp("two"), TWO_PROCESSES, devices=2, processes=2)


def test_what_is_compared(meshes):
    alone = meshes["alone", 0]
    assert alone["devices"] == 1 and alone["checksums"].all() and alone["moved"] == 1
    assert alone["observed"].any(axis=1).sum() > 4 and "│" in "".join(alone["val_transcripts"])
    assert np.ptp(alone["rewards"]) > 0 and alone["refilled_groups"] == 1
    assert np.all(np.diff(alone["losses"]) < -1e-3)  # of five epochs on the same rollout
    assert np.abs(alone["adapters"] - alone["first_adapters"]).max() > 1e-3


def check(found, expected, devices, kernel, adapter):
    assert found["devices"] == devices
    assert (found["shard_kernel"].tolist(), found["shardlora_kernel_a"].tolist()) == (kernel, adapter)
    for name in SAME:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    for name, tolerance in CLOSE.items():
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.slow
def test_meshes(meshes):
    """A device has of the query's kernel and adapter: heads, hidden features, and head features or rank."""
    check(meshes["1x4", 0], meshes["alone", 0], 4, [2, 16, 8], [2, 16, 2])
    check(meshes["4x1 split", 0], meshes["alone", 0], 4, [8, 4, 8], [8, 16, 2])
    for name in ("1x4", "4x1 split"):
        outputs = [meshes[each, 0]["kernel_outputs"] for each in (name, "alone")]
        np.testing.assert_allclose(*outputs, atol=1e-4)  # of up to 20


@pytest.mark.slow
@pytest.mark.parametrize("process", range(2))
def test_two_processes(two_processes, meshes, process):
    check(two_processes["2x2 split", process], meshes["alone", 0], 4, [4, 8, 8], [4, 16, 2])
