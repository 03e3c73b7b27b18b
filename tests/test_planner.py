"""Plans against what runs really hold, on virtual CPU devices of a child process, and against numbers by hand."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

from keras_aha.chips import chip
from keras_aha.planner import find_topology, in_a_table, in_plain_words, plan, search
from keras_aha.planner.program import _temp_bytes
from keras_aha.planner.topology import as_on
from keras_aha.recipe import Recipe
from keras_aha.recipe_sections import RecipeError
from keras_aha.utilization import update_flops

import jax
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
SMALL = [
    *("rollouts.prompts_per_epoch=8", "rollouts.group_size=4", "rollouts.max_completion_length=64"),
    *("rollouts.max_prompt_length=64", "training.micro_batch_size=16", "evaluation.puzzles=4"),
]
MESHES = {
    "4x1": [],
    "2x2": ["distribution.model=2"],
    "split": ['distribution.weights="split"', 'lora.target=["query","value"]'],
    "waiting": ["rollouts.max_rows=16"],
    "int8": ['model.quantization="int8"'],
    "twin": ['rollouts.quantization="int8"'],
    "full": ["lora.rank=0", "loss.kl_coef=0.1"],
}


@pytest.fixture(scope="module")
def preset(make_policy, tmp_path_factory):
    """The folder of a Gemma 2 so small that programs compile in seconds."""
    folder = tmp_path_factory.mktemp("presets") / "tiny"
    make_policy("gemma_2").save_to_preset(str(folder))
    return folder


@pytest.fixture(scope="module")
def small(preset):
    """A function that makes a recipe for it, with changes."""
    return lambda *changes: small_recipe(preset, *changes)


def small_recipe(preset, *changes):
    return Recipe.load("countdown_tiny").override([f'model.preset="{preset}"', *SMALL, *changes])


# === What a device holds, in a child process with four ===


def plan_and_run(preset, name):
    """What a plan says that each device takes, and what a run has there: bytes of arguments."""
    from keras_aha.decoding import batch as decoding_batch
    from keras_aha.experiment import Experiment
    from keras_aha.rollout import empty_batch

    import keras

    recipe = small_recipe(preset, *MESHES[name])
    planned = plan(recipe, "cpu:4")
    assert keras.distribution.distribution() is None
    model = Experiment(recipe).model
    distribution = keras.distribution.distribution()
    device, seen, segment = jax.devices()[0], [], decoding_batch.programs.segment

    def held(tree):
        shards = (shard for x in jax.tree.leaves(tree) for shard in x.addressable_shards if shard.device == device)
        return sum(shard.data.nbytes for shard in shards)

    def spy(decoder, sampling, weights, state, rows, prompt, settings, **static):
        seen.append(held([weights, state, rows, prompt.cache if prompt else ()]))
        return segment(decoder, sampling, weights, state, rows, prompt, settings, **static)

    variables = [*model.trainable_variables, *model.non_trainable_variables, *model.optimizer.variables]
    state = [variable.value for variable in (*variables, *model.metrics_variables)]
    batch = [
        jax.device_put(x, distribution.get_data_layout(x.shape).backend_layout)
        for x in empty_batch(32, 64, 64).values()
    ]
    decoding_batch.programs.segment = spy
    settings = {key: getattr(recipe.rollouts, key) for key in ("group_size", "max_rows", "quantization")}
    model.generate(np.ones((8, 64), "int32"), max_completion_length=64, stop_tokens=(), **settings)
    decoding_batch.programs.segment = segment
    keras.distribution.set_distribution(None)
    return {
        "train": [planned.train.argument_bytes, held([state, batch])],
        "decode": [planned.decode.argument_bytes, max(seen)],
    }


def in_a_child(code, devices, **environment):
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    child = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    return json.loads(child.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def truths(preset):
    """For each mesh and program, bytes as planned and as held."""
    runs = f"{{name: t.plan_and_run({str(preset)!r}, name) for name in t.MESHES}}"
    return in_a_child(f"import json, test_planner as t; print(json.dumps({runs}))", 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", MESHES)
@pytest.mark.parametrize("program", ["train", "decode"])
def test_arguments_are_those_of_the_run(truths, name, program):
    planned, held = truths[name][program]
    assert planned == held
