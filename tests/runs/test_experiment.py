import dataclasses
import inspect
import json
import re

from keras_aha.callbacks.rollout_callback import RolloutCallback
from keras_aha.evaluation.table_file import read_tables
from keras_aha.evaluation.tables import BEHAVIOURS
from keras_aha.losses import GRPOLoss
from keras_aha.recipes import sections
from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.sections import RecipeError
from keras_aha.runs.build_policy import build_policy, with_absolute_preset
from keras_aha.runs.experiment import Experiment, build_evaluation, load_trained, summarize_held_out
from keras_aha.runs.run import Run
from keras_aha.training.grpo_model import GRPOModel
from keras_aha.training.priming import prime

import numpy as np
import pandas as pd
import pytest


@pytest.fixture(scope="module")
def preset(make_policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets") / "tiny"
    make_policy().save_to_preset(str(folder))
    return folder


@pytest.fixture(scope="module")
def recipe(preset):
    return Recipe.from_dict(
        {
            "model": {"preset": str(preset)},
            "lora": {"rank": 2},
            "task": {"name": "countdown", "num_numbers": 3, "max_number": 10, "template": "compact"},
            "rollouts": {"prompts_per_epoch": 2, "group_size": 2, "max_completion_length": 8},
            "training": {"epochs": 2},
            "evaluation": {"puzzles": 3, "samples": 2},
        }
    )


@pytest.fixture(scope="module")
def full_run(recipe, tmp_path_factory):
    """`(experiment, its folder)` after two epochs on every weight."""
    experiment = Experiment(recipe.override("lora.rank=0"))
    folder = tmp_path_factory.mktemp("runs") / "full"
    run = Run(experiment, folder)
    experiment.model.fit(**run.fit_arguments())  # step by step, as in a notebook; scripts call `run.fit`
    run.finish()
    return experiment, folder


# === What is built ===


def test_adapters_of_a_recipe(recipe):
    section = ["lora.rank=3", "lora.alpha=6", 'lora.target=["query", "ffw_linear"]']
    block = build_policy(recipe.override(section)).backbone.get_layer("decoder_block_0")
    assert (block.attention.query_dense.lora_rank, block.attention.query_dense.lora_alpha) == (3, 6.0)
    assert block.ffw_linear.lora_alpha == 6.0 and not block.gating_ffw.lora_rank


def test_a_recipe_becomes_live_objects(recipe):
    experiment = Experiment(recipe)
    assert experiment.model.policy.backbone.num_layers == 2
    assert len(experiment.model.trainable_variables) == 2 * 2 * 7  # A and B of seven linears in two layers
    assert experiment.rollouts.sampling["group_size"] == 2
    assert len(experiment.evaluation.task) == 3
    assert experiment.evaluation.sampling["max_rows"] == 4  # the rows of a rollout, whose programs it can use


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
    assert first.evaluation.task.problems == other.evaluation.task.problems


def test_users_paths_are_made_absolute(recipe, preset, monkeypatch):
    monkeypatch.chdir(preset.parent)
    here = recipe.override("model.preset=tiny")
    assert with_absolute_preset(here).model.preset == str(preset)
    assert with_absolute_preset(recipe.override("model.preset=gemma2_2b_en")).model.preset == "gemma2_2b_en"


# === Training every weight ===


def test_full_fine_tuning_writes_a_preset(recipe, full_run):
    experiment, folder = full_run
    assert (folder / "preset" / "model.weights.h5").is_file() and not (folder / "adapters.lora.h5").exists()
    written = Recipe.load(folder / "recipe.toml")
    assert written == experiment.recipe
    untrained, loaded = build_policy(recipe, adapters=False), load_trained(written, folder)
    trained = experiment.model.policy
    changed = 0
    for variable, other, first in zip(trained.weights, loaded.weights, untrained.weights, strict=True):
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
    held_out = ["accuracy", "greedy_accuracy", "n", "samples", "ci95", "format_rate", "mean_completion_length"]
    assert list(summary["heldout_before"]) == [*held_out, *(f"mean_{name}" for name in BEHAVIOURS)]
    assert summary["heldout_after"]["greedy_accuracy"] == greedy["correct"].mean()
    assert (folder / "held_out_before.jsonl").is_file()


def test_history_has_a_row_an_epoch_and_no_machines_columns_but_seconds(full_run):
    history = pd.read_csv(full_run[1] / "history.csv")
    assert history["epoch"].tolist() == [1, 2]
    assert history.columns[0] == "epoch" and "tokens_per_second" not in history.columns
    assert history["val_accuracy"].isna().tolist() == [True, False]
    every_epoch = [name for name in history if not name.startswith(("val_", "evaluation_"))]
    assert history[every_epoch].notna().all(axis=None)
    assert (history["epoch_seconds"] > history["rollout_seconds"]).all()
    assert (history["generated_tokens"] == history["completion_length"] * 4).all()


def test_a_loaded_policy_is_the_trained_one(full_run):
    experiment, folder = full_run
    again = build_evaluation(experiment.recipe).evaluate(GRPOModel(load_trained(experiment.recipe, folder)))
    pd.testing.assert_frame_equal(again, experiment.evaluation.latest[1])


def test_a_run_that_learns_nothing_is_told_why(recipe, tmp_path, capsys):
    Run(Experiment(recipe.override("training.epochs=3")), tmp_path).fit()
    findings = [json.loads(line) for line in (tmp_path / "findings.jsonl").read_text().splitlines()]
    assert [(finding["epoch"], finding["name"]) for finding in findings] == [(3, "no_signal"), (3, "truncated")]
    shown = capsys.readouterr().out
    assert shown.index("3/3") < shown.index("Doctor, epoch 3: In the last 3 epochs the rewards of every group")


# === Errors ===


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ("task.num_numbres=3", "Unknown key task.num_numbres; the nearest is task.num_numbers. Received: "),
        ("task.name=chess", "No task is called 'chess'; there is countdown, multiplication, word_problems, reasoning_"),
        ("task.num_numbers=9", "[task]: num_numbers must be from 2 to 6"),
        ("task.puzzles=5", "[task]: countdown cannot be made of the section's keys"),
        ("task.puzzles=nowhere.csv", "[task]: The puzzle file cannot be read"),
        ("evaluation.puzzles=100000", "[evaluation.puzzles]: `n` must be at most 732"),
        ("loss.delta=0.1", "`delta` must be a number above 1.2"),
        ("optimizer.config.lerning_rate=1", "the nearest is optimizer.config.learning_rate."),
        (
            "training.micro_batch_size=3",
            "the 4 rows of a step: choose 2 or 4. Received: micro_batch_size=3",
        ),
        ("rollouts.max_prompt_length=9", "tokens, more than the limit: raise rollouts.max_prompt_length"),
        ("model.preset=gema2_2b_en", "No preset has that name; the nearest is 'gemma2_2b_en'"),
        ("model.dtype=float", "[model]: `dtype` must be one of float32"),
        ('lora.target=["querry"]', "The policy has no layer 'querry' to adapt; the nearest is 'query'."),
        ('lora.target=["token_embedding"]', "The policy has no layer 'token_embedding' to adapt"),  # not saved
        ("lora.target=[]", "No layer was adapted: name some, or set lora_rank=0."),
    ],
)
def test_what_cannot_be_used_is_said_in_one_sentence(recipe, changes, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as error:
        Experiment(recipe.override(changes))
    assert "\n" not in str(error.value)


def test_a_folder_that_is_no_preset(recipe, tmp_path):
    with pytest.raises(RecipeError, match="The folder is no preset that keras-hub can load. Received: "):
        build_policy(recipe.override(f"model.preset={json.dumps(str(tmp_path))}"))


def test_a_failed_download_says_what_to_do(recipe, monkeypatch):
    def refuse(*args):
        raise ConnectionError("a long story\nof many lines")

    monkeypatch.setattr("kagglehub.model_download", refuse)
    with pytest.raises(RecipeError, match="KAGGLE_USERNAME and KAGGLE_KEY .*='gemma2_2b_en', ConnectionError: a long"):
        build_policy(recipe.override("model.preset=gemma2_2b_en"))


@pytest.mark.parametrize("rank, missing", [(2, "adapters.lora.h5"), (0, "preset")])
def test_an_unfinished_run_is_not_loaded(recipe, tmp_path, rank, missing):
    with pytest.raises(ValueError, match=f"The run has not finished, as it has no {missing}. Received: "):
        load_trained(recipe.override(f"lora.rank={rank}"), tmp_path)


# === Sections are keyword arguments ===


@pytest.mark.parametrize(
    "section, built, others, own",  # arguments that are no keys, and keys that are no arguments
    [
        (sections.Priming, prime, {"policy", "task", "callbacks"}, {"adapters"}),
        (sections.Rollouts, RolloutCallback.__init__, {"self", "task", "seed", "rewards"}, set()),
        (sections.Loss, GRPOLoss.__init__, {"self"}, set()),
    ],
)
def test_a_section_has_every_key_of_what_it_builds(section, built, others, own):
    keys = {key.name for key in dataclasses.fields(section)}
    assert keys - own == inspect.signature(built).parameters.keys() - others
