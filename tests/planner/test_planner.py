"""Plans against what runs really hold, on virtual CPU devices of a child process, and against numbers by hand."""

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

from keras_aha.distribution.devices import chip
from keras_aha.models.abstract_backbone import abstract_backbone
from keras_aha.models.flops import update_flops
from keras_aha.models.internals import as_if_on
from keras_aha.planner import find_topology, in_a_table, in_plain_words, plan, search
from keras_aha.planner.advice import advice
from keras_aha.planner.arithmetic import ByHand
from keras_aha.planner.program import _temp_bytes
from keras_aha.planner.topology import tpu_layout
from keras_aha.recipes.recipe import Recipe
from keras_aha.training.grpo_model import GRPOModel
from keras_aha.training.rollout import empty_batch

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SMALL = [
    *("rollouts.prompts_per_epoch=8", "rollouts.group_size=4", "rollouts.max_completion_length=64"),
    *("rollouts.max_prompt_length=64", "training.micro_batch_size=16", "evaluation.puzzles=4"),
]
MESHES = {
    "2x2, all weights": ["distribution.model=2", 'distribution.weights="split"', "lora.rank=0", "loss.kl_coef=0.1"],
    "waiting twin": ["rollouts.max_rows=16", 'rollouts.quantization="int8"', 'lora.target=["query","value"]'],
    "beside": ['model.dtype="bfloat16"'],
    "taught": ["distribution.model=2", 'distribution.weights="split"', 'teacher.hint="{prompt}{solution}"'],
}
MESHES["taught"] += ["teacher.preset=countdown_tiny", "loss.surrogate_coef=0"]


@pytest.fixture(scope="module")
def preset(make_policy, tmp_path_factory):
    """The folder of a Gemma 2 so small that programs compile in seconds."""
    folder = tmp_path_factory.mktemp("presets") / "tiny"
    make_policy("gemma_2").save_to_preset(str(folder))
    return folder


def small_recipe(preset, *changes):
    return Recipe.load("countdown_tiny").override([f'model.preset="{preset}"', *SMALL, *changes])


def plan_and_run(preset, name):
    """What a plan says that each device takes, and what a run has there: bytes of arguments."""
    from keras_aha.decoding import batch as decoding_batch
    from keras_aha.runs.experiment import Experiment

    import keras

    recipe = small_recipe(preset, *MESHES[name])
    planned = plan(recipe, "cpu:4")
    assert keras.distribution.distribution() is None
    model = Experiment(recipe).model
    distribution = keras.distribution.distribution()
    device, seen, segment = jax.devices()[0], [], decoding_batch.jitted_steps.segment

    def held(tree):
        shards = (shard for x in jax.tree.leaves(tree) for shard in x.addressable_shards if shard.device == device)
        return sum(shard.data.nbytes for shard in shards)

    def spy(decoder, sampling, weights, state, rows, prompt, settings, **static):
        seen.append(held([weights, state, rows, prompt.cache if prompt else ()]))
        return segment(decoder, sampling, weights, state, rows, prompt, settings, **static)

    variables = [*model.trainable_variables, *model.non_trainable_variables, *model.optimizer.variables]
    state = [variable.value for variable in (*variables, *model.metrics_variables)]
    hint = 128 if recipe.teacher.hint else 0
    arrays = empty_batch(32, 64, 64, model.rows_per_prompt(32, 4, 64, 64), teacher_prompt_length=hint).values()
    batch = [jax.device_put(x, distribution.get_data_layout(x.shape).backend_layout) for x in arrays]
    decoding_batch.jitted_steps.segment = spy
    settings = {key: getattr(recipe.rollouts, key) for key in ("group_size", "max_rows", "quantization")}
    model.generate(np.ones((8, 64), "int32"), max_completion_length=64, stop_tokens=(), **settings)
    decoding_batch.jitted_steps.segment = segment
    keras.distribution.set_distribution(None)
    return [planned.train.argument_bytes, planned.decode.argument_bytes], [held([state, batch]), max(seen)]


@pytest.fixture(scope="module")
def in_a_child(preset):
    """What `plan_and_run` says of each mesh, and `plan_and_measure`: all in one child process with four devices."""
    code = f"{{name: t.plan_and_run({str(preset)!r}, name) for name in t.MESHES}} | {{'peak': t.plan_and_measure()}}"
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    folders = [ROOT, ROOT / "tests", ROOT / "tests" / "planner", os.environ.get("PYTHONPATH", "")]
    environment = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(map(str, folders))}
    environment = {**os.environ, **environment, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}  # pages count once used
    command = f"import gc, json, test_planner as t; gc.freeze(); print(json.dumps({code}))"
    child = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr[-3000:]
    return json.loads(child.stdout.splitlines()[-1])


def plan_and_measure():
    """What a step takes beside its arguments, as planned and by the process's peak; -1 if no one tells the peak."""
    if not Path("/proc/self/clear_refs").exists():
        return 0, -1
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from keras_aha.runs.experiment import Experiment

    from process import forget_peak, peak_mib, resident_mib

    recipe = Recipe.load("countdown_tiny").override(["rollouts.prompts_per_epoch=2", "training.micro_batch_size=32"])
    planned = plan(recipe, "cpu:1").phases["train"]["activations"]
    with as_if_on(jax.devices()[:1], "cpu"):
        model = Experiment(recipe).model
    state = [model.trainable_variables, model.non_trainable_variables, model.optimizer.variables]
    state = jax.tree.map(lambda variable: variable.value, (*state, model.metrics_variables))
    batch = jax.tree.map(jnp.asarray, empty_batch(32, 32, 256, model.rows_per_prompt(32, 16, 32, 256)))
    batch["completion_mask"] += 1  # or there would be nothing to compute
    compiled = jax.jit(model.train_step, donate_argnums=0).lower(state, batch).compile()
    forget_peak()
    before = resident_mib()
    jax.block_until_ready(compiled(state, batch))
    return planned, (peak_mib() - before) * 2**20


@pytest.mark.slow
def test_arguments_and_peak_are_those_of_the_run(in_a_child):
    """Arguments to the byte, on one of four devices: those of the train step and of a decode step."""
    planned, taken = in_a_child.pop("peak")
    for name, (arguments, held) in in_a_child.items():
        assert arguments == held, name
    if taken < 0:
        pytest.skip("Linux tells a process's peak memory")
    assert planned > 5e8 and abs(planned / taken - 1) < 0.15


def test_a_plan_on_a_cpu(make_policy, tmp_path):
    """Operations of two micro-batches and two layers, against the model flops; and all parts add up."""
    wide = make_policy("gemma_2", hidden_dim=64, intermediate_dim=512, head_dim=32)  # products outweigh all else
    wide.save_to_preset(str(tmp_path / "wide"))
    recipe = small_recipe(tmp_path / "wide", "lora.rank=2", "rollouts.max_rows=16")
    planned = plan(recipe, "cpu:1", price_per_chip_hour=1.0)
    wide.backbone.enable_lora(2, target_layer_names=list(Recipe.load("countdown_tiny").lora.target))
    rows, length, prompts = 32, 128, 8  # a group of four shares its prompt
    expected = update_flops(wide.backbone, np.full(rows, length), np.full(rows, 64), share=prompts / rows)
    # Pairs that a causal mask hides are computed. Of the last block, a prompt has keys and values only.
    pairs = 2 * rows * 64 * length + prompts * 64 * 64
    pairs -= 2 * rows * (64 * 64 + 64 * 65 / 2) + 2 * prompts * 64 * 65 / 2
    expected += 3 * 2 * 2 * pairs * 4 * 32
    tokens, kernels = rows * 64 + prompts * 64, 2 * 4 * 32 * 64 + 3 * 64 * 256  # query, output, feed-forward
    adapters = 2 * (2 * (128 + 64) + 3 * (64 + 256))
    expected -= prompts * 64 * 2 * (2 * kernels + 3 * adapters)
    expected -= 2 * tokens * 64 * (4 + 2 + 2) * 32  # what the first block's q, k and v would give the embedding
    assert planned.train.micro_batches == 2
    assert abs(planned.train.step.flops / expected - 1) < 0.01
    assert planned.train.step.collectives == planned.decode.step.collectives == {}
    assert planned.hbm_bytes_per_chip == max(sum(parts.values()) for parts in planned.phases.values())
    assert planned.fits and not planned.advice
    assert (planned.train.sequences_per_chip, planned.train.sequence_length) == (16, 128)
    assert (planned.decode.sequences_per_chip, planned.decode.cache_length) == (16, 128)
    slots = 128 + 4  # every other layer has a window of four
    assert planned.phases["decode"]["cache"] == 16 * slots * 2 * 2 * 32 * 4  # of K and V, two heads, in float32
    assert planned.decode.step.bytes >= planned.decode.floor_bytes
    assert planned.run is None  # nothing is known of a CPU's speed
    assert json.loads(json.dumps(planned.to_dict()))["parts"] == planned.parts
    assert "16 a chip" in in_a_table(planned) and "So it fits" in in_plain_words(planned)


JUDGE = 'rewards=[{name="a", judge="countdown_tiny", rubric="{completion}{other}", answers={1=1.0, 2=0.0}, '
JUDGE += 'max_length=32, batch_size=8, opponents=3}, {name="b", judge="http://b/v1", rubric="{completion}", model="c"}]'


def test_a_judge_and_a_teacher_are_counted(preset):
    """Their bytes in every phase, a phase for the judge, and what the teacher reads in the train step."""
    alone, beside = (
        plan(small_recipe(preset, *more), "cpu:1")
        for more in ([], [JUDGE, "teacher.preset=countdown_tiny", 'teacher.hint="{prompt}{solution}"'])
    )
    tiny = abstract_backbone("countdown_tiny", "float32")
    size, zeros = 4 * tiny.count_params(), dict.fromkeys(["teacher", "judges"], 0)
    for phase, parts in alone.phases.items():
        assert zeros.items() <= parts.items()
        assert (beside.phases[phase]["teacher"], beside.phases[phase]["judges"]) == (size, size)
        same = ("weights", "merged_weights", "cache")  # the optimizer has one metric more
        assert [beside.phases[phase][name] for name in same] == [parts[name] for name in same]
    judge = beside.phases["judge"]
    assert beside.phases.keys() - alone.phases.keys() == {"judge"} and judge["activations"] > 0 == judge["cache"]
    assert beside.train.argument_bytes > alone.train.argument_bytes + size  # the teacher, and its prompts
    assert beside.train.step.flops > alone.train.step.flops and beside.phases["train"]["activations"] > 0
    assert "judges" in in_a_table(beside) and "teacher" not in in_a_table(alone)
    assert sum("max_length" in note or "nobody knows" in note for note in beside.notes) == 2


def test_what_a_judge_and_a_teacher_take_on_a_gpu_by_hand():
    """Judging has its share of a rollout, a teacher of an update; if they are too large, it is said what to change."""
    judge = 'rewards=[{name="a", judge="gemma3_270m", rubric="{completion}", max_length=1024}]'
    recipe = Recipe.load("gemma3_270m").override([judge, "teacher.preset=gemma3_270m", "teacher.dtype=float32"])
    alone, beside = plan(Recipe.load("gemma3_270m"), "t4"), plan(recipe, "t4")
    parameters = abstract_backbone("gemma3_270m", "float32").count_params()
    judge = beside.phases["judge"]
    assert (judge["teacher"], judge["judges"]) == (4 * parameters, 2 * parameters) and judge["activations"] > 0
    assert beside.run.rollout_seconds > alone.run.rollout_seconds
    assert beside.train.step.flops > alone.train.step.flops
    lines = "\n".join(advice(recipe, beside.phases, limit=2 * 10**9))
    keys = 'teacher.kl="sampled"', 'teacher.quantization="int8"', 'quantization of [[rewards]]="int8"', "batch_size of"
    assert all(key in lines for key in keys)


def test_what_does_not_fit_is_said_with_what_to_change(preset, monkeypatch):
    recipe = small_recipe(preset, "training.micro_batch_size=none")
    whole = plan(recipe, "t4")
    limited = dataclasses.replace(find_topology("t4"), memory=whole.hbm_bytes_per_chip - 1)
    for module in ("planning", "search"):
        monkeypatch.setattr(sys.modules[f"keras_aha.planner.{module}"], "find_topology", lambda name: limited)
    tight = plan(recipe, "t4")
    assert not tight.fits
    assert "training.micro_batch_size" in tight.advice[0]
    assert "1. a smaller" in in_a_table(tight) and "does not fit" in in_plain_words(tight)
    found = search(recipe, "t4")
    assert plan(found, "t4").fits
    rows = recipe.rollouts.prompts_per_epoch * recipe.rollouts.group_size
    larger = next(size for size in range(found.training.micro_batch_size + 1, rows + 1) if rows % size == 0)
    assert not plan(found.override(f"training.micro_batch_size={larger}"), "t4").fits


def test_what_the_compiler_says_of_memory():
    used = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded by 4.75G."
    assert _temp_bytes(used, 2**30) == 19.5 * 2**30
    temporaries = "the total memory required for HLO temporaries (480.00M) exceeds available HBM (15.75G)."
    assert _temp_bytes(temporaries, 2**30) == 480 * 2**20
    assert _temp_bytes(temporaries.replace("480.00M", "4.27T"), 0) == int(4.27 * 2**40)
    assert _temp_bytes("RESOURCE_EXHAUSTED: something else", 0) is None


REFUSED = {"v9": "No topology has that name", "cpu:0": "No topology has that name", "t4x999": "of which 999 are needed"}
REFUSED |= {"v5e-7": "there are v5e-1, v5e-4, v5e-8", "cpu:999": "xla_force_host_platform_device_count=999"}


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_is_none(name):
    with pytest.raises(ValueError, match=f"{REFUSED[name]}.* Received: topology="):
        find_topology(name)


def test_what_is_sold_is_counted_in_cores_or_in_chips():
    layouts = {"v3-8": "v3:2x2", "v5litepod-8": "v5e:2x4", "v4-8": "v4:2x2x1"}
    assert {name: tpu_layout(name) for name in layouts} == layouts


@pytest.mark.parametrize("name, devices", [("v3-8", 8), ("v4-2", 1), ("v5e-1", 1)])
def test_tpus(name, devices):
    """A chip of v2 and v3 is two devices, one a core."""
    pytest.importorskip("libtpu")
    topology = find_topology(name)
    assert len(topology.devices) == devices and topology.memory == chip(topology.device_kind).memory


def test_a_gpu_is_planned_by_hand():
    planned = plan(Recipe.load("gemma3_270m"), "t4", price_per_chip_hour=0.5)
    assert planned.fits and planned.compile_seconds == 0 and planned.hbm_limit_bytes == 12e9
    assert any("no units for bfloat16" in note for note in planned.notes)
    assert planned.decode.step.bytes == planned.decode.floor_bytes
    run = planned.run
    assert run.epoch_seconds == run.rollout_seconds + run.update_seconds
    assert run.run_price == pytest.approx(0.5 * run.run_seconds / 3600)


def test_by_hand_a_prompt_counts_once_for_the_rows_that_share_it(make_policy):
    """32 rows of 64 + 16 tokens, eight at a time; one layer, whose gate and up are of 16 each."""
    planner, programs = ByHand(Recipe.load("countdown_tiny").override("loss.kl_coef=0")), {}
    model = GRPOModel(make_policy("gemma", num_layers=1), micro_batch_size=8)
    for shared in (1, 4):
        batch = jax.tree.map(jnp.asarray, empty_batch(32, 64, 16, shared))
        programs[shared] = planner.train_step(model, (), batch)()
        lengths = np.full(32, 80), np.full(32, 16)
        assert programs[shared].flops == update_flops(model.policy.backbone, *lengths, share=1 / shared)
    # Six prompts fewer: of each token the block's input and five arrays, and of each pair two for each of two heads.
    saved = 6 * (64 * (16 + 5 * 16) + 64 * 64 * 2 * 2) * 4
    assert programs[1].temp_bytes - programs[4].temp_bytes == saved


def test_a_table_of_which_a_token_reads_one_row_is_not_read_by_a_decode_step():
    """Gemma 4 E2B has one beside its vocabulary's: 35 layers × 256 for each of 262,144 tokens, in bfloat16."""
    planned = plan(Recipe.load("gemma4_2b"), "t4")
    table, decode = 262_144 * 35 * 256 * 2, planned.phases["decode"]
    adapters = decode["merged_weights"]  # beside bfloat16 kernels
    assert planned.decode.floor_bytes == planned.parts["weights"] - table + adapters + decode["cache"] and adapters


def test_the_script(monkeypatch, tmp_path, capfd):
    """It prints a table, writes JSON, and refuses in a sentence."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    for name in ("JAX_PLATFORMS", "JAX_ENABLE_COMPILATION_CACHE"):  # its settings do not outlive the test
        monkeypatch.setenv(name, os.environ.get(name, ""))
    script, file = importlib.import_module("plan").main, tmp_path / "plan.json"
    flags = f"--preset countdown_tiny --topology t4 --json {file} --price-per-chip-hour 0.4 --explain"
    assert script(flags.split()) == 0
    out, err = capfd.readouterr()
    assert out.startswith("countdown_tiny on t4: fits, ") and "Training countdown_tiny repeats one thing" in out
    written = json.loads(file.read_text())
    keys = "preset topology chips fits hbm_bytes_per_chip hbm_limit_bytes parts train decode compile_seconds"
    assert set(keys.split()) <= written.keys() and written["run"]["run_price"] > 0
    assert "\nrecipe countdown_tiny: 16 prompts × " in out and written["recipe"] == "countdown_tiny"
    assert written["values"]["task.name"] == "countdown" and "rollouts.max_completion_length" in written["values"]
    for flags, words in {
        "--topology t4 --set model.preset=gemma9": "No preset has that name",
        "--topology t4 --set training.micro_batch_size=7": "micro_batch_size must divide",
        "--price-per-chip-hour=-1": "A price must be 0 or more",
    }.items():
        with pytest.raises(SystemExit, match="^2$"):
            script(flags.split())
        out, err = capfd.readouterr()
        assert words in err.splitlines()[-1] and "Traceback" not in err and not out


@pytest.mark.slow
def test_a_tpu(preset):
    """Needs libtpu, which the extra `plan` brings and `test` does not: nothing but CPU is compiled for without it."""
    pytest.importorskip("libtpu")
    planned = plan(small_recipe(preset, "model.dtype=bfloat16"), "v5e-1")
    assert planned.device_kind == "TPU v5 lite"
    assert planned.hbm_limit_bytes == chip("TPU v5 lite").memory
    assert planned.fits and planned.run.epoch_seconds > 0
    assert planned.decode.floor_bytes / 2 < planned.decode.step.bytes < planned.decode.floor_bytes * 3


@pytest.mark.slow
def test_what_a_tpus_compiler_finds_no_room_for_is_said_with_what_to_change(preset):
    """It ends with RESOURCE_EXHAUSTED for the train step and for the prefill, and says what they would take beside
    their arguments: 4 TB and 58 GB."""
    pytest.importorskip("libtpu")
    changes = ["rollouts.prompts_per_epoch=524288", "rollouts.group_size=16", "training.micro_batch_size=none"]
    planned = plan(small_recipe(preset, "model.dtype=bfloat16", *changes), "v5e-1")
    assert not planned.fits
    taken = {name: parts["activations"] for name, parts in planned.phases.items()}
    assert taken.keys() == {"train", "decode"} and taken["train"] > 1e12 and taken["decode"] > 2e10
    assert "training.micro_batch_size" in planned.advice[0] and "rollouts.max_rows" in planned.advice[1]
    assert "To make it fit" in in_a_table(planned) and "does not fit" in in_plain_words(planned)
