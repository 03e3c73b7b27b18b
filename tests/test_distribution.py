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

    trained = grpo_epoch()
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
        on_mesh = grpo_epoch()
        report[name]["same_completions"] = bool(np.array_equal(on_mesh["token_ids"], trained["token_ids"]))
        errors = [float(np.abs(a - b).max()) for a, b in zip(on_mesh["update"], trained["update"], strict=True)]
        report[name]["update_error"] = max(errors)
        report[name]["update"] = max(float(np.abs(update).max()) for update in trained["update"])

    report["errors"] = {}
    for sizes in ((3, 1), (8, None), (None, 3), (2, 4), (1, 1)):
        try:
            aha.distribute(*sizes) if sizes[1] else aha.distribute(sizes[0])
        except ValueError as error:
            report["errors"][str(sizes)] = str(error)
    json.dump(report, sys.stdout)


def grpo_epoch():
    """One rollout and one update of a tiny policy with adapters: the token ids, and by how much each adapter moved."""
    from keras_aha.tasks import Score, Task
    from keras_aha.tiny_gemma import tiny_gemma

    import keras

    class ShortWords(Task):
        """Any completion has some reward, so that a policy of random weights has gradients."""

        def problem(self, index):
            return index

        def prompt(self, problem):
            return f"Use {problem} {problem + 1} each once to make 7.\n"

        def score(self, problem, completion):
            return Score(1 / (1 + len(completion)), False, "length")

        def held_out(self, n):
            raise NotImplementedError

    keras.utils.set_random_seed(0)
    policy = tiny_gemma(
        num_layers=2, num_query_heads=2, num_key_value_heads=2, hidden_dim=16, head_dim=8, intermediate_dim=32
    )
    policy.backbone.enable_lora(4)
    model = aha.GRPOModel(policy, micro_batch_size=8)
    model.compile(keras.optimizers.SGD(1.0))
    before = [variable.numpy() for variable in model.trainable_variables]
    rollouts = aha.RolloutCallback(ShortWords(), prompts_per_epoch=4, group_size=4, max_completion_length=8)
    model.fit(rollouts.dataset, callbacks=[rollouts], verbose=0)
    after = [variable.numpy() for variable in model.trainable_variables]
    update = [new - old for new, old in zip(after, before, strict=True)]
    return {"token_ids": model.rollout.token_ids, "update": update}


@pytest.fixture(scope="module")
def report():
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4",
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


@pytest.mark.parametrize("name, mesh, shard", (("4x1", [4, 1], [4, 16, 8]), ("2x2", [2, 2], [2, 16, 8])))
def test_kernels_are_sharded(report, name, mesh, shard):
    assert report[name]["mesh"] == mesh
    assert report[name]["kernel"] == [4, 16, 8]  # query heads, hidden, head dim
    assert report[name]["shard"] == shard
    assert not report[name]["auto_shard"]


@pytest.mark.parametrize("name", ("4x1", "2x2"))
def test_adapters_are_replicated(report, name):
    whole, shard = report[name]["adapter"]
    assert whole == shard == [4, 16, 2]


@pytest.mark.parametrize("name", ("4x1", "2x2"))
def test_same_rollout_and_update_as_one_device(report, name):
    assert report[name]["same_completions"]
    assert report[name]["update"] > 1e-2  # the adapters did move
    assert report[name]["update_error"] < 1e-5 * report[name]["update"] + 1e-6


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
