"""The policy that a recipe describes: its sections become arguments of `load_policy`, and adapters of another run."""

import json
import re

import keras_aha as aha
from keras_aha.models import lora
from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.sections import RecipeError
from keras_aha.runs.build_policy import build_policy, policy_arguments
from keras_aha.runs.experiment import Experiment, load_trained

import numpy as np
import pytest
from tiny_models import randomize


def set_to(key, value):
    return f"{key}={json.dumps(str(value))}"


@pytest.fixture(scope="module")
def recipe(make_policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("preset")
    make_policy().save_to_preset(str(folder))
    return Recipe.from_dict(
        {
            "model": {"preset": str(folder)},
            "lora": {"rank": 2},
            "task": {"name": "countdown", "num_numbers": 3, "max_number": 10, "template": "compact"},
            "rollouts": {"prompts_per_epoch": 2, "group_size": 2, "max_completion_length": 4},
            "training": {"epochs": 1},
            "evaluation": {"puzzles": 2, "samples": 1},
        }
    )


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    """The folder of a run, and what its adapters are."""
    folder = tmp_path_factory.mktemp("run")
    trained = build_policy(recipe)
    randomize(trained.trainable_variables, 0)
    lora.save_adapters(trained.backbone, folder / lora.ADAPTERS)
    recipe.dump(folder / "recipe.toml")
    return folder, [np.asarray(variable) for variable in trained.trainable_variables]


def test_sections_are_the_arguments_of_load_policy(recipe):
    changes = ["model.dtype=bfloat16", "model.quantization=int8", "lora.alpha=3", 'lora.target=["query"]']
    arguments = policy_arguments(recipe.override([*changes, "training.remat=true"]))
    expected = dict(dtype="bfloat16", quantization="int8", lora_rank=2, lora_alpha=3.0, lora_targets=("query",))
    assert arguments == {"preset": recipe.model.preset, "remat": True, **expected}
    assert len(aha.load_policy(**arguments).trainable_variables) == 4


def test_priming_has_no_adapters_and_floats(recipe):
    primed = build_policy(recipe.override("model.quantization=int4"), adapters=False)
    assert {variable.dtype for variable in primed.trainable_variables} == {"float32"}
    assert not lora.has_adapters(primed)


def test_an_error_names_the_section(recipe):
    with pytest.raises(RecipeError, match=r"^\[model\]: No preset has that name"):
        build_policy(recipe.override("model.preset=countdown_tin"))


@pytest.mark.parametrize("name", ["", lora.ADAPTERS])
def test_a_run_starts_from_the_adapters_of_another(recipe, run, name, monkeypatch):
    folder, adapters = run
    monkeypatch.chdir(folder.parent)
    experiment = Experiment(recipe.override(set_to("lora.start", f"{folder.name}/{name}")))
    assert experiment.recipe.lora.start == str(folder / name)  # in the new run's recipe
    for variable, adapter in zip(experiment.model.policy.trainable_variables, adapters, strict=True):
        np.testing.assert_array_equal(variable, adapter)


def test_what_has_started_from_adapters_is_loaded_without_them(recipe, run, tmp_path):
    folder, adapters = run
    trained = load_trained(recipe.override(set_to("lora.start", tmp_path / "gone")), folder)
    np.testing.assert_array_equal(trained.trainable_variables[0], adapters[0])


@pytest.mark.parametrize(
    "change, sentence",
    [
        ("lora.alpha=4", "multiplied them by another alpha: set lora.alpha=2. Received: lora.start="),
        ("lora.start=nowhere", "lora.start is the folder of a finished run, or its adapters.lora.h5. Received: "),
        ("lora.rank=4", "[model]: The file's adapters have another rank than the backbone's: set it to 2. Received: "),
    ],
)
def test_adapters_to_start_from_that_do_not_fit(recipe, run, change, sentence):
    with pytest.raises(RecipeError, match=re.escape(sentence)):
        build_policy(recipe.override([set_to("lora.start", run[0]), change]))
