import dataclasses
import hashlib
import inspect
import json
import re

import keras_aha as aha
from keras_aha.callbacks.rollout_callback import RolloutCallback
from keras_aha.evaluation.table_file import read_tables
from keras_aha.evaluation.tables import BEHAVIOURS, TURNS
from keras_aha.losses import GRPOLoss
from keras_aha.models import lora
from keras_aha.recipes import sections
from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.sections import RecipeError
from keras_aha.runs.build_policy import build_policy, policy_arguments
from keras_aha.runs.experiment import Experiment, summarize_held_out, with_absolute_paths
from keras_aha.runs.run import Run
from keras_aha.runs.sources import source_checksums
from keras_aha.runs.trained_policy import load_trained
from keras_aha.training.priming import prime
from keras_aha.training.turn_limits import TurnLimits

import numpy as np
import pandas as pd
import pytest
from conftest import SMALL
from tiny_models import randomize


@pytest.fixture(scope="module")
def preset(make_policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets") / "tiny"
    make_policy().save_to_preset(str(folder))
    return folder


@pytest.fixture(scope="module")
def recipe(preset):
    changes = [*SMALL, f'model.preset="{preset}"', "training.epochs=2", "optimizer.class_name=AdamW"]
    return Recipe.load("countdown_tiny").override(changes)  # without rewards, weights decay


@pytest.fixture(scope="module")
def full_run(recipe, tmp_path_factory):
    """`(experiment, its folder)` after two epochs on every weight."""
    experiment = Experiment(recipe.override("lora.rank=0"))
    folder = tmp_path_factory.mktemp("runs") / "full"
    run = Run(experiment, folder)
    experiment.model.fit(**run.fit_arguments())  # step by step, as in a notebook; scripts call `run.fit`
    run.finish()
    return experiment, folder


def test_a_cell_that_was_interrupted_is_run_again(recipe, tmp_path, monkeypatch):
    """`fit` of the same run goes on, to what an uninterrupted run has."""
    begin = RolloutCallback.on_epoch_begin

    def interrupted(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt
        begin(self, epoch, logs)

    run = Run(Experiment(recipe), tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RolloutCallback, "on_epoch_begin", interrupted)
        run.fit()
    run.stopped_by = "SIGINT"  # as a signal, which is not sent here, would have left it
    run.fit()
    assert run.stopped_by is None and (tmp_path / "run" / "summary.json").exists()
    assert pd.read_csv(tmp_path / "run" / "history.csv")["epoch"].tolist() == [1, 2]
    assert pd.read_json(tmp_path / "run" / "completions.jsonl", lines=True)["epoch"].unique().tolist() == [1, 2]


# === What is built ===


def test_sections_are_the_arguments_of_load_policy(recipe):
    changes = ["model.dtype=bfloat16", "model.quantization=int8", "lora.alpha=3", 'lora.target=["query"]']
    arguments = policy_arguments(recipe.override([*changes, "training.remat=true"]))
    expected = dict(dtype="bfloat16", quantization="int8", lora_rank=2, lora_alpha=3.0, lora_targets=("query",))
    assert arguments == {"preset": recipe.model.preset, "remat": True, **expected}
    assert len(aha.load_policy(**arguments).trainable_variables) == 4
    # Priming has no adapters, and floats.
    primed = build_policy(recipe.override("model.quantization=int4"), adapters=False)
    assert {variable.dtype for variable in primed.trainable_variables} == {"float32"}
    assert not lora.has_adapters(primed)


def test_sampling_settings_reach_rollouts_and_evaluation(recipe):
    settings = dict(min_p=0.1, top_k=7, stop_strings=["</answer>"], stop_tokens=["a"], max_rows=2, quantization="int8")
    recipe = recipe.override([f"rollouts.{name}={json.dumps(value)}" for name, value in settings.items()])
    experiment = Experiment(recipe)
    expected = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    assert {name: experiment.rollouts.sampling[name] for name in expected} == expected
    # Held-out problems are for the policy as it is: its full softmax, its own weights.
    evaluation = experiment.evaluation.sampling
    absent = dict.fromkeys(["min_p", "top_k", "quantization"])
    assert {name: evaluation.get(name) for name in expected} == expected | absent


def test_the_seed_decides_adapters_and_problems_but_not_what_is_held_out(recipe):
    first, again, other = (Experiment(recipe.override(f"training.seed={seed}")) for seed in (0, 0, 1))
    values = [experiment.model.trainable_variables[0].numpy() for experiment in (first, again, other)]
    assert np.array_equal(values[0], values[1]) and not np.array_equal(values[0], values[2])
    problems = [[experiment.task.problem(i) for i in range(5)] for experiment in (first, again, other)]
    assert problems[0] == problems[1] != problems[2]
    assert first.evaluation.task.problems == other.evaluation.task.problems and len(first.evaluation.task) == 3
    assert first.evaluation.sampling["max_rows"] == 4  # the rows of a rollout, whose programs it can use


def test_users_paths_are_made_absolute(recipe, preset, monkeypatch):
    monkeypatch.chdir(preset.parent)
    files = ["task.name=rows", "task.file=file.jsonl", "task.held_out_file=['held_out_file.jsonl', '/b.csv']"]
    found = with_absolute_paths(recipe.override(["model.preset=tiny", "lora.start=run", *files]))
    assert found.model.preset == str(preset) and found.lora.start == str(preset.parent / "run")
    places = {name: str(preset.parent / f"{name}.jsonl") for name in ("file", "held_out_file")}
    assert found.task.arguments == places | {"held_out_file": (places["held_out_file"], "/b.csv")}
    for name in ("gemma2_2b_en", "countdown_tiny"):
        own = recipe.override([f"model.preset={name}", "task.name=own:Task", "task.file=no path"])
        assert with_absolute_paths(own) == own


def test_several_files_and_a_folder_of_rows_have_one_checksum(recipe, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(name)
    policy = build_policy(recipe)
    for file, content in ((["a.jsonl", "b.jsonl"], b"ab"), (".", b"ab"), ("b.jsonl", b"b")):
        file = [str(tmp_path / name) for name in file] if isinstance(file, list) else str(tmp_path / file)
        own = recipe.override(["task.name=rows", f"task.file={json.dumps(file)}"])
        assert source_checksums(own, policy)["task.file"] == hashlib.sha256(content).hexdigest()
    (tmp_path / "c.md").write_text("c")  # with which the folder is one of texts
    own = recipe.override(["task.name=search_qa", f"task.file={tmp_path}/a.jsonl", f"task.corpus={tmp_path}"])
    assert source_checksums(own, policy)["task.corpus"] == hashlib.sha256(b"c").hexdigest()


# === Adapters of another run ===


@pytest.fixture(scope="module")
def adapted_run(recipe, tmp_path_factory):
    """The folder of a run, and its adapters."""
    folder = tmp_path_factory.mktemp("run")
    trained = build_policy(recipe)
    randomize(trained.trainable_variables, 0)
    lora.save_adapters(trained.backbone, folder / lora.ADAPTERS)
    return folder, [np.asarray(variable) for variable in trained.trainable_variables]


@pytest.mark.parametrize("name", ["", lora.ADAPTERS])
def test_a_run_starts_from_the_adapters_of_another(recipe, adapted_run, name, monkeypatch):
    folder, adapters = adapted_run
    monkeypatch.chdir(folder.parent)
    experiment = Experiment(recipe.override(f'lora.start="{folder.name}/{name}"'))
    assert experiment.recipe.lora.start == str(folder / name)  # in the new run's recipe
    for variable, adapter in zip(experiment.model.policy.trainable_variables, adapters, strict=True):
        np.testing.assert_array_equal(variable, adapter)
    trained = load_trained(recipe.override("lora.start=gone"), folder)  # what has started from them needs them no more
    np.testing.assert_array_equal(trained.trainable_variables[0], adapters[0])


@pytest.mark.parametrize(
    "change, sentence",
    [
        ("lora.alpha=4", "multiplied them by another alpha: set lora.alpha=2. Received: lora.start="),
        ("lora.rank=4", "[model]: The file's adapters have another rank than the backbone's: set it to 2. Received: "),
    ],
)
def test_adapters_to_start_from_that_do_not_fit(recipe, adapted_run, change, sentence):
    recipe.dump(adapted_run[0] / "recipe.toml")
    with pytest.raises(RecipeError, match=re.escape(sentence)):
        build_policy(recipe.override([f'lora.start="{adapted_run[0]}"', change]))


# === Training every weight ===


def test_full_fine_tuning_writes_a_preset(recipe, full_run, tmp_path):
    experiment, folder = full_run
    assert (folder / "preset" / "model.weights.h5").is_file() and not (folder / "adapters.lora.h5").exists()
    written = Recipe.load(folder / "recipe.toml")
    assert written == experiment.recipe
    with pytest.raises(ValueError, match="No epoch of the run is saved: let it train one or more. Received: log_dir="):
        load_trained(written, tmp_path)
    untrained, loaded = build_policy(recipe, adapters=False), load_trained(written, folder)
    changed = 0
    weights = (policy.weights for policy in (experiment.model.policy, loaded, untrained))
    for variable, other, first in zip(*weights, strict=True):
        assert np.array_equal(variable.numpy(), other.numpy())
        changed += not np.array_equal(variable.numpy(), first.numpy())
    assert changed


def test_what_came_of_a_run_is_written_step_by_step_too(full_run):
    experiment, folder = full_run
    sampled, greedy = read_tables(folder / "held_out_after.jsonl")
    _, *latest = experiment.evaluation.latest
    for written, made in zip((sampled, greedy), latest, strict=True):
        pd.testing.assert_frame_equal(written.reset_index(drop=True), made)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["heldout_after"] == summarize_held_out(*latest) and summary["preset"] == "full"
    held_out = ["accuracy", "greedy_accuracy", "is_checked", "n", "samples", "ci95", "format_rate"]
    means = [f"mean_{name}" for name in ("completion_length", *BEHAVIOURS)]
    assert list(summary["heldout_before"]) == [*held_out, *means] and summary["heldout_before"]["is_checked"]
    assert summary["heldout_after"]["greedy_accuracy"] == greedy["correct"].mean()
    assert (folder / "held_out_before.jsonl").is_file()
    # The history has a row an epoch, and a column for each log, empty if the run has no such feature.
    history = pd.read_csv(folder / "history.csv")
    assert history["epoch"].tolist() == [1, 2]
    assert history.columns[0] == "epoch" and history["tokens_per_second"].gt(0).all()
    assert history["failed_rewards"].tolist() == [0, 0] and history["compiles"][0] > 0
    assert history["val_accuracy"].isna().tolist() == [True, False]
    features = {"kl", "task_reward", "overlong_penalty", "importance_weight", "curriculum_level", "difficulty", "mfu"}
    features |= {"refilled_groups", "refill_tokens", "imitated_observations", *TURNS}
    features |= {"entropy", "ratio", "clip_fraction", "sampler_gap"}  # of no token here, as all rewards are equal
    every_epoch = [name for name in history if not name.startswith(("val_", "evaluation_")) and name not in features]
    assert history[every_epoch].notna().all(axis=None)
    assert (history["epoch_seconds"] > history["rollout_seconds"]).all()
    assert (history["generated_tokens"] == history["completion_length"] * 4).all()


def test_a_run_that_learns_nothing_is_told_why(recipe, tmp_path, capsys):
    Run(Experiment(recipe.override("training.epochs=3")), tmp_path).fit()
    findings = [json.loads(line) for line in (tmp_path / "findings.jsonl").read_text().splitlines()]
    assert [(finding["epoch"], finding["name"]) for finding in findings] == [(3, "no_signal"), (3, "truncated")]
    shown = capsys.readouterr().out
    assert shown.index("3/3") < shown.index("Doctor, epoch 3: In the last 3 epochs the rewards of every group")


# === Sections are keyword arguments: in tests/recipes, of which; here, of all ===


@pytest.mark.parametrize(
    "section, built, others",  # arguments that are no keys, and a key that is no argument
    [
        (
            sections.Priming,
            prime,
            {"policy", "examples", "held_out", "restore", "callbacks", "verbose"}
            | {"adapters", "tasks", "file", "held_out_file", "held_out_share", "max_length", "long_rows"}
            | {"prompt", "completion", "messages", "chat_form", "loss_on"},
        ),
        (sections.Rollouts, RolloutCallback.__init__, {"self", "task", "seed", "rewards", "turns", "long_prompts"}),
        (sections.Turns, TurnLimits.__init__, {"self", "max_turns", "tool_form", "declare"}),
        (sections.Loss, GRPOLoss.__init__, {"self", "teacher_coef"}),  # which is the teacher's weight
    ],
)
def test_a_section_has_every_key_of_what_it_builds(section, built, others):
    assert {key.name for key in dataclasses.fields(section)} ^ inspect.signature(built).parameters.keys() == others
