"""Sampling on meshes of four devices, which a child process has, draws what one device draws."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MESHES = {"1x1": None, "2x2": {"batch": 2, "model": 2}, "4x1": {}}
PROMPTS, GROUP, LENGTH = 16, 4, 24
NEAR_TIE = 2e-5


def in_meshes():
    """Runs in the child process: samples in each mesh and reports how that differs from what one device samples."""
    import keras_aha as aha
    from keras_aha.callbacks.compile_counter import CompileCounter
    from keras_aha.decoding import batch, decoder_for, generate, row_keys
    from keras_aha.models.tiny_gemma import tiny_gemma
    from keras_aha.training.policy_sampler import PolicySampler

    import jax
    import numpy as np
    from conftest import ALL_LINEAR, GEMMA_2, randomize
    from sampling_oracle import drawn, uniforms

    rng = np.random.default_rng(0)
    padding_mask = (np.arange(9) >= rng.integers(0, 7, (PROMPTS, 1))).astype("int32")
    token_ids = rng.integers(4, 200, padding_mask.shape).astype("int32") * padding_mask
    keys = row_keys(1, 0, np.arange(PROMPTS * GROUP))
    moves, move_to = [], batch.Batch.move_to

    def spy(self, bucket):
        moves.append(bucket.rows)
        move_to(self, bucket)

    batch.Batch.move_to = spy

    def sample(policy, decoder, density, **settings):
        size = policy.backbone.vocabulary_size
        table = np.zeros((2, size), "int8")
        table[0, np.random.default_rng(1).permutation(size)[: int(density * size)]] = table[1] = 1
        settings = dict(group_size=GROUP, max_completion_length=LENGTH, stop_table=table) | settings
        return generate(decoder, PolicySampler(policy).merged_values(), token_ids, padding_mask, keys, **settings)

    def gap(policy, completions, row, position):
        """How far the random numbers of a key lie from others that draw another token."""
        tokens = token_ids[row // GROUP][padding_mask[row // GROUP] > 0]
        tokens = np.append(tokens, completions.token_ids[row, :position])[None]
        logits = policy({"token_ids": tokens, "padding_mask": np.ones_like(tokens)})[0, -1]
        numbers = uniforms(keys[row : row + 1], position + 1)[0, position]
        return float(drawn(np.asarray(jax.nn.softmax(logits), "float64"), numbers)[1])

    def difference(policy, completions, expected):
        differ = completions.token_ids != expected.token_ids
        rows = np.flatnonzero(differ.any(axis=1))
        same = np.setdiff1d(np.arange(len(differ)), rows)
        return {
            "gaps": [gap(policy, expected, row, int(differ[row].argmax())) for row in rows],
            "log_probs": float(np.abs(completions.log_probs - expected.log_probs)[same].max()),
            "lengths": bool(np.array_equal(completions.lengths[same], expected.lengths[same])),
            "stopped": bool(np.array_equal(completions.stopped[same], expected.stopped[same])),
        }

    report, alone = {}, None
    for name, sizes in MESHES.items():
        if sizes is not None:
            aha.distribute(**sizes)
        policy = tiny_gemma(**GEMMA_2)
        randomize(policy.backbone.variables, 0)
        policy.backbone.enable_lora(2, target_layer_names=ALL_LINEAR)
        randomize(policy.trainable_variables, 1)
        decoder = decoder_for(policy.backbone)
        warm = sample(policy, decoder, 0.1, warm_up=name != "1x1")
        counter = CompileCounter()
        moves.clear()
        completions = sample(policy, decoder, 0.1)
        alone = alone or completions
        for density in (0.0, 0.3) if sizes is not None else ():
            sample(policy, decoder, density)
        report[name] = {
            "moves": sorted(set(moves)),
            "compiles": counter.count,
            "devices": max(len(variable.value.sharding.device_set) for variable in policy.backbone.variables),
            "lengths": len(set(completions.lengths.tolist())),
            "warm": difference(policy, warm, alone),
            "again": difference(policy, completions, alone),
        }
        if name == "4x1":
            report[name]["waiting"] = difference(policy, sample(policy, decoder, 0.1, max_rows=20), alone)
        if name == "2x2":
            batch.SHARED_PROMPT = 1
            report[name]["shared"] = difference(policy, sample(policy, decoder, 0.1), alone)
            batch.SHARED_PROMPT = 1000
    json.dump(report, sys.stdout)


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
        [sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


@pytest.mark.parametrize("name", MESHES)
def test_what_is_compared(report, name):
    assert report[name]["devices"] == (1 if name == "1x1" else 4)
    assert set(report[name]["moves"]) == ({4, 16} if name == "1x1" else {16})  # rows, of 64; no part has fewer than 4
    assert report[name]["lengths"] > 10


@pytest.mark.parametrize("name", MESHES)
def test_the_same_tokens_as_on_one_device(report, name):
    ways = {"warm", "again", "waiting", "shared"} & set(report[name])
    assert len(ways) == 2 + (name != "1x1")
    for way in ways:
        difference = report[name][way]
        assert len(difference["gaps"]) <= 1 and all(gap < NEAR_TIE for gap in difference["gaps"])
        assert difference["log_probs"] < 1e-5
        assert difference["lengths"] and difference["stopped"]


@pytest.mark.parametrize("name", ("2x2", "4x1"))
def test_nothing_is_compiled_after_warming_up(report, name):
    assert report[name]["compiles"] == 0


if __name__ == "__main__":
    in_meshes()
