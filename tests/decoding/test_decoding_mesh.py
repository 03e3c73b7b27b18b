"""Sampling on a mesh of four devices, which a child process has, draws what one device draws."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROMPTS, GROUP, LENGTH = 16, 4, 24
NEAR_TIE = 2e-5


def in_meshes():
    """Runs in the child process: samples on one device and on 2 × 2, and reports what differs."""
    import keras_aha as aha
    from keras_aha.callbacks.compile_counter import CompileCounter
    from keras_aha.decoding import batch, decoder_for, generate, row_keys
    from keras_aha.training.policy_sampler import PolicySampler

    import numpy as np
    from sampling_oracle import drawn, forward_log_probs, uniforms
    from tiny_models import tiny_policy
    from told import Told

    rng = np.random.default_rng(0)
    padding_mask = (np.arange(9) >= rng.integers(0, 7, (PROMPTS, 1))).astype("int32")
    token_ids = rng.integers(4, 200, padding_mask.shape).astype("int32") * padding_mask
    keys = row_keys(1, 0, np.arange(PROMPTS * GROUP))
    moves, move_to = [], batch.Batch.move_to

    def spy(self, bucket):
        moves.append(bucket.rows)
        move_to(self, bucket)

    batch.Batch.move_to = spy

    def sample(weights, decoder, density, **settings):
        size = decoder.backbone.vocabulary_size
        table = np.zeros((2, size), "int8")
        table[0, np.random.default_rng(1).permutation(size)[: int(density * size)]] = table[1] = 1
        settings = dict(group_size=GROUP, max_completion_length=LENGTH, stop_table=table) | settings
        return generate(decoder, weights, token_ids, padding_mask, keys, **settings)

    policy = tiny_policy("gemma_2", lora_rank=2)
    alone = sample(PolicySampler(policy).merged_values(), decoder_for(policy.backbone), 0.1)
    report = {"moves alone": sorted(set(moves)), "lengths": len(set(alone.lengths.tolist()))}
    told = sample(PolicySampler(policy).merged_values(), decoder_for(policy.backbone), 0.1, answers=Told())

    def margins_of(alone):
        log_probs = forward_log_probs(policy, (token_ids, padding_mask), alone)
        return drawn(np.exp(log_probs), uniforms(keys, LENGTH))[1]

    margins = {id(alone): margins_of(alone), id(told): margins_of(told)}

    def difference(completions, alone=alone):
        differ = completions.token_ids != alone.token_ids
        rows = np.flatnonzero(differ.any(axis=1))
        same = np.setdiff1d(np.arange(len(differ)), rows)
        return {
            "margins": [float(margins[id(alone)][row, differ[row].argmax()]) for row in rows],
            "log_probs": float(np.abs(completions.log_probs - alone.log_probs)[same].max()),
            "lengths": bool(np.array_equal(completions.lengths[same], alone.lengths[same])),
            "stopped": bool(np.array_equal(completions.stopped[same], alone.stopped[same])),
        }

    aha.distribute(batch=2, model=2)
    policy = tiny_policy("gemma_2", lora_rank=2)
    decoder, weights = decoder_for(policy.backbone), PolicySampler(policy).merged_values()
    report["devices"] = max(len(variable.value.sharding.device_set) for variable in policy.backbone.variables)
    ways = {"warm": difference(sample(weights, decoder, 0.1, warm_up=True))}
    counter = CompileCounter()
    moves.clear()
    ways["again"] = difference(sample(weights, decoder, 0.1))
    for density in (0.0, 0.3):
        sample(weights, decoder, density)
    report |= {"moves": sorted(set(moves)), "compiles": counter.count}
    ways["waiting"] = difference(sample(weights, decoder, 0.1, max_rows=20))
    batch.SHARED_PROMPT = 1
    ways["shared"] = difference(sample(weights, decoder, 0.1))
    batch.SHARED_PROMPT = 64
    turns = sample(weights, decoder, 0.1, answers=Told(late=2), warm_up=True)
    counter.count = 0
    for answers in (Told(), Told(late=3, turns=6)):
        sample(weights, decoder, 0.1, answers=answers)
    report["compiles in turns"] = counter.count
    ways["turns"] = difference(turns, told)
    json.dump(report | {"ways": ways}, sys.stdout)


@pytest.fixture(scope="module")
def report():
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    folders = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": folders}
    child = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=600)
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


def test_what_is_compared_and_that_nothing_is_compiled_after_warming_up(report):
    assert report["devices"] == 4 and report["lengths"] > 10
    assert report["moves alone"] == [4, 16] and report["moves"] == [16]  # rows, of 64; no part has fewer than 4
    assert report["compiles"] == report["compiles in turns"] == 0


@pytest.mark.parametrize("way", ("warm", "again", "waiting", "shared", "turns"))
def test_the_same_tokens_as_on_one_device(report, way):
    difference = report["ways"][way]
    assert len(difference["margins"]) <= 1 and all(margin < NEAR_TIE for margin in difference["margins"])
    assert difference["log_probs"] < 1e-5
    assert difference["lengths"] and difference["stopped"]


if __name__ == "__main__":
    in_meshes()
