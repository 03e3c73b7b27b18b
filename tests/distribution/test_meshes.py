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

SPLIT = {"model": 2, "weights": "split", "rollout_model": 2}
# Parts of a batch, and of eight query heads; the two of keys and values are whole where these are more.
SIZES = {"8x1": (8, 1), "4x2": (4, 2), "1x8": (1, 8)}
MESHES = {"alone": None, "4x2 split": SPLIT}
MESHES |= {name: {"batch": batch, "model": model} for name, (batch, model) in SIZES.items()}
SAME = ("token_ids", "rewards", "val_texts", "refill_tokens", "refilled_groups", "reward", "val_accuracy", "truncated")
SAME += ("checksums", "moved")  # of adapters, bit by bit
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
    if processes > 1:
        command += [str(port), str(processes)]
    children = [
        subprocess.Popen(
            [*command, *([str(i)] if processes > 1 else [])],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(processes)
    ]
    for child in children:
        output, _ = child.communicate(timeout=600)
        assert child.returncode == 0, output
    return {(name, i): np.load(folder / f"{m}-{i}.npz") for m, name in enumerate(meshes) for i in range(processes)}


@pytest.fixture(scope="module")
def meshes(tmp_path_factory):
    return run(tmp_path_factory.mktemp("meshes"), MESHES, devices=8)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    return run(tmp_path_factory.mktemp("two"), {"2x2 split": SPLIT}, devices=2, processes=2)


@pytest.fixture(scope="module")
def four_processes(tmp_path_factory):
    return run(tmp_path_factory.mktemp("four"), {"4x1": {}}, devices=1, processes=4)


def assert_same(found, expected):
    for name in SAME:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    for name, tolerance in CLOSE.items():
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=tolerance, err_msg=name)


def test_what_is_compared(meshes):
    alone = meshes["alone", 0]
    assert alone["devices"] == 1 and alone["checksums"].all() and alone["moved"] == 1
    assert np.ptp(alone["rewards"]) > 0 and alone["refilled_groups"] == 1
    assert np.all(np.diff(alone["losses"]) < -1e-3)  # of five epochs on the same rollout
    assert np.abs(alone["adapters"] - alone["first_adapters"]).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MESHES if name != "alone"])
def test_meshes(meshes, name):
    assert meshes[name, 0]["devices"] == 8
    assert_same(meshes[name, 0], meshes["alone", 0])


@pytest.mark.parametrize(
    "name, kernel, adapter",
    [
        ("8x1", [8, 16, 8], [8, 16, 2]),
        ("4x2", [4, 16, 8], [4, 16, 2]),
        ("1x8", [1, 16, 8], [1, 16, 2]),
        ("4x2 split", [4, 4, 8], [4, 16, 2]),
    ],
)
def test_what_a_device_has(meshes, name, kernel, adapter):
    """Of the query's kernel and adapter, (heads, hidden, …)."""
    assert meshes[name, 0]["shard_kernel"].tolist() == kernel
    assert meshes[name, 0]["shardlora_kernel_a"].tolist() == adapter


@pytest.mark.slow
@pytest.mark.parametrize("process", range(2))
def test_two_processes(two_processes, meshes, process):
    assert two_processes["2x2 split", process]["devices"] == 4
    assert_same(two_processes["2x2 split", process], meshes["alone", 0])


@pytest.mark.slow
@pytest.mark.parametrize("process", range(4))
def test_four_processes(four_processes, meshes, process):
    assert four_processes["4x1", process]["devices"] == 4
    assert_same(four_processes["4x1", process], meshes["alone", 0])
