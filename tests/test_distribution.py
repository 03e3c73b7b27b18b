"""Meshes need several devices, and a process chooses its devices once: the meshes are built in a child process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras_aha as aha

import pytest

ROOT = Path(__file__).parents[1]


def in_meshes():
    """Runs in the child process: what a tiny Gemma looks like, and says, on one device and on meshes of four."""
    import keras
    import keras_hub
    import numpy as np

    def build():
        return keras_hub.models.GemmaBackbone(
            vocabulary_size=64,
            num_layers=2,
            num_query_heads=4,
            num_key_value_heads=2,
            hidden_dim=16,
            intermediate_dim=32,
            head_dim=8,
        )

    token_ids = np.random.default_rng(0).integers(1, 64, (8, 6))
    inputs = {"token_ids": token_ids, "padding_mask": np.ones_like(token_ids)}
    alone = build()
    weights, expected = alone.get_weights(), alone.predict(inputs, verbose=0)

    report = {}
    for name, sizes in {"4x1": {}, "2x2": {"batch": 2, "model": 2}}.items():
        distribution = aha.distribute(**sizes)
        assert keras.distribution.distribution() is distribution
        backbone = build()
        backbone.set_weights(weights)
        found = backbone.predict(inputs, batch_size=8, verbose=0)
        query = backbone.get_layer("decoder_block_0").attention.query_dense
        report[name] = {
            "error": float(np.abs(found - expected).max()),
            "mesh": distribution.device_mesh.shape,
            "auto_shard": distribution.auto_shard_dataset,
            "kernel": query.kernel.shape,
            "shard": query.kernel.value.addressable_shards[0].data.shape,
        }
        backbone.enable_lora(2)
        adapter = query.lora_kernel_a
        report[name]["adapter"] = [adapter.shape, adapter.value.addressable_shards[0].data.shape]

    report["errors"] = {}
    for sizes in ((3, 1), (8, None), (None, 3), (2, 4), (1, 1)):
        try:
            aha.distribute(*sizes) if sizes[1] else aha.distribute(sizes[0])
        except ValueError as error:
            report["errors"][str(sizes)] = str(error)
    json.dump(report, sys.stdout)


@pytest.fixture(scope="module")
def report():
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "PYTHONPATH": str(ROOT),
    }
    child = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


@pytest.mark.parametrize("name", ("4x1", "2x2"))
def test_same_numbers_as_one_device(report, name):
    assert report[name]["error"] < 1e-5


@pytest.mark.parametrize("name, mesh, shard", (("4x1", [4, 1], [4, 4, 8]), ("2x2", [2, 2], [2, 8, 8])))
def test_kernels_are_sharded(report, name, mesh, shard):
    assert report[name]["mesh"] == mesh
    assert report[name]["kernel"] == [4, 16, 8]  # query heads, hidden, head dim
    assert report[name]["shard"] == shard
    assert not report[name]["auto_shard"]


@pytest.mark.parametrize("name", ("4x1", "2x2"))
def test_adapters_are_replicated(report, name):
    whole, shard = report[name]["adapter"]
    assert whole == shard == [4, 16, 2]


def test_sizes_that_do_not_multiply_to_the_devices(report):
    sentence = (
        "`batch` times `model` must be the number of devices, which is 4: choose {}. Received: batch={}, model={}"
    )
    two = "batch=4, model=1 or batch=2, model=2"
    assert report["errors"] == {
        "(3, 1)": sentence.format(two, 3, 1),
        "(8, None)": sentence.format(two, 8, 1),
        "(None, 3)": sentence.format("batch=2, model=2 or batch=1, model=4", None, 3),
        "(2, 4)": sentence.format("batch=2, model=2 or batch=1, model=4", 2, 4),
        "(1, 1)": sentence.format(two, 1, 1),
    }


def test_one_device_is_left_alone():
    import keras

    if len(keras.distribution.list_devices()) > 1:
        pytest.skip("this machine has several devices")
    assert aha.distribute(batch=8, model=1) is None
    assert aha.distribute() is None
    assert keras.distribution.distribution() is None


@pytest.mark.parametrize(
    "sizes, message",
    (
        ({"batch": 0}, r"`batch` must be a positive int\. Received: batch=0"),
        ({"batch": 2.0}, r"Received: batch=2\.0"),
        ({"model": None}, r"`model` must be a positive int\. Received: model=None"),
        ({"model": "auto"}, r"Received: model='auto'"),
    ),
)
def test_sizes_that_are_no_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        aha.distribute(**sizes)


if __name__ == "__main__":
    in_meshes()
