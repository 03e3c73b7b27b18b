"""Weights from a folder of the user's, and adapters of another run."""

import json
import re

from keras_aha.models import lora, policy
from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.sections import RecipeError
from keras_aha.runs.build_policy import build_policy
from keras_aha.runs.experiment import Experiment, load_trained

import numpy as np
import pytest


def set_to(key, value):
    return f"{key}={json.dumps(str(value))}"


# === Weights from a folder ===


@pytest.fixture(scope="module")
def folders(make_policy, tmp_path_factory):
    """A tiny Gemma as keras-hub and as Hugging Face write it."""
    root = tmp_path_factory.mktemp("input")
    made = make_policy("gemma")
    made.save_to_preset(str(root / "keras"))
    made.export_to_transformers(str(root / "hf"))
    config = root / "hf" / "config.json"
    written = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(written | {"architectures": ["GemmaForCausalLM"]}), encoding="utf-8")  # left out
    return root, made


@pytest.mark.parametrize("kind", ["keras", "hf"])
@pytest.mark.parametrize("relative", [False, True])
def test_a_large_models_recipe_takes_weights_from_a_folder(folders, kind, relative, monkeypatch):
    root, made = folders
    monkeypatch.chdir(root)
    recipe = Recipe.load("gemma2_9b_en").override(set_to("model.preset", kind if relative else root / kind))
    loaded = build_policy(recipe)
    assert loaded.backbone.token_embedding.embeddings.dtype == "bfloat16"
    assert [v.dtype for v in loaded.trainable_variables] == ["float32"] * 28  # A and B of seven linears in two layers
    frozen = {variable.path: variable for variable in loaded.backbone.non_trainable_variables}
    assert frozen.keys() == {variable.path for variable in made.backbone.variables}
    for variable in made.backbone.variables:
        np.testing.assert_array_equal(frozen[variable.path], variable.value.astype("bfloat16"))
    np.testing.assert_array_equal(*(model.preprocessor.tokenizer("make 12") for model in (loaded, made)))


def test_a_folder_that_is_not_there(folders):
    missing = folders[0] / "gemma2" / "2"
    sentence = f"There is no such folder; a preset's is the one that holds its config.json.*{re.escape(str(missing))}"
    with pytest.raises(RecipeError, match=sentence):
        build_policy(Recipe.load("gemma2_2b_en").override(set_to("model.preset", missing)))


# === Adapters of another run ===


@pytest.fixture(scope="module")
def recipe(folders):
    return Recipe.from_dict(
        {
            "model": {"preset": str(folders[0] / "keras")},
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
    rng = np.random.default_rng(0)
    for variable in trained.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    lora.save_adapters(trained.backbone, folder / lora.ADAPTERS)
    recipe.dump(folder / "recipe.toml")
    return folder, [np.asarray(variable) for variable in trained.trainable_variables]


@pytest.mark.parametrize("name", ["", lora.ADAPTERS])
def test_a_run_starts_from_the_adapters_of_another(recipe, run, name, monkeypatch, tmp_path):
    folder, adapters = run
    monkeypatch.chdir(folder.parent)
    again = recipe.override(set_to("lora.start", f"{folder.name}/{name}"))
    experiment = Experiment(again)
    assert experiment.recipe.lora.start == str(folder / name)  # in the new run's recipe
    for variable, adapter in zip(experiment.model.policy.trainable_variables, adapters, strict=True):
        np.testing.assert_array_equal(variable, adapter)
    with lora.adapters_off(experiment.model.policy) as reference:
        plain = build_policy(recipe, adapters=False)
        inputs = {"token_ids": np.ones((1, 3), "int32"), "padding_mask": np.ones((1, 3), "int32")}
        np.testing.assert_array_equal(reference(inputs), plain(inputs))


def test_what_has_started_from_adapters_is_loaded_without_them(recipe, run, tmp_path):
    folder, adapters = run
    trained = load_trained(recipe.override(set_to("lora.start", tmp_path / "gone")), folder)
    np.testing.assert_array_equal(trained.trainable_variables[0], adapters[0])


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ("lora.rank=4", "another rank than the backbone's: set it to 2. Received: path="),
        ("lora.alpha=4", "multiplied them by another alpha: set lora.alpha=2. Received: lora.start="),
        ('lora.target=["query"]', "The file's adapters are not those of the backbone"),
        ("lora.rank=0", "There are no adapters to load if every weight is trained"),
        ("model.preset=countdown_tiny", "The file's adapters are"),
        ("lora.start=nowhere", "lora.start is the folder of a finished run, or its adapters.lora.h5. Received: "),
    ],
)
def test_adapters_that_do_not_fit_are_refused_before_weights_are_loaded(recipe, run, changes, sentence, monkeypatch):
    def load(*args, **kwargs):
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(policy, "_load_text_model", load)
    start = recipe.override([set_to("lora.start", run[0]), changes])
    with pytest.raises(ValueError, match=re.escape(sentence)) as error:
        build_policy(start)
    assert "\n" not in str(error.value)


def test_a_file_of_something_else_is_no_adapters(recipe, tmp_path):
    (tmp_path / lora.ADAPTERS).write_text("nothing", encoding="utf-8")
    with pytest.raises(ValueError, match="The file holds no adapters of a keras-hub model. Received: path="):
        build_policy(recipe.override(set_to("lora.start", tmp_path)))


def test_adapters_of_a_model_of_other_shapes_are_refused(make_policy, recipe, run, tmp_path):
    make_policy("gemma", hidden_dim=24).save_to_preset(str(tmp_path / "wider"))
    wider = recipe.override([set_to("lora.start", run[0]), set_to("model.preset", tmp_path / "wider")])
    with pytest.raises(ValueError, match="The file's adapters are those of another model.*which has the shapes"):
        build_policy(wider)
