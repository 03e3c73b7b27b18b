import dataclasses
import importlib
import inspect
import re
import tempfile
from pathlib import Path

from keras_aha.files import presets_folder
from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.sections import SECTIONS, RecipeError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

SMALLEST = {"model": {"preset": "gemma2_2b_en"}, "task": {"name": "countdown"}}


def recipe_of(**sections):
    return Recipe.from_dict(SMALLEST | sections)


# === Reading ===


def test_defaults_are_written_out():
    recipe = recipe_of()
    assert dataclasses.asdict(recipe.loss) == {
        "clip_range": 0.2,
        "kl_coef": 0.0,
        "kl_estimator": "k3",
        "ratio": "token",
        "aggregation": "token_mean",
        "delta": None,
        "entropy_coef": 0.0,
        "importance_cap": None,
    }
    assert recipe.rollouts.top_k is None
    assert recipe.model.quantization is None
    assert (recipe.task.name, recipe.task.arguments) == ("countdown", {})


def test_values_get_the_types_that_are_declared():
    recipe = recipe_of(
        loss={"clip_range": [0.2, 1], "kl_coef": 1},
        rollouts={"advantage_scale": "none", "top_k": "none"},
        task={"name": "countdown", "num_numbers": [3, 4]},
    )
    assert recipe.loss.clip_range == (0.2, 1.0)
    assert isinstance(recipe.loss.clip_range[1], float) and isinstance(recipe.loss.kl_coef, float)
    assert recipe.rollouts.advantage_scale is None and recipe.rollouts.top_k is None
    assert recipe.task.arguments == {"num_numbers": (3, 4)}


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("min_p", 1, 1.0),
        ("min_p", "none", None),
        ("stop_strings", ["</answer>", "\n\n"], ("</answer>", "\n\n")),
        ("stop_strings", [], ()),
        ("max_rows", 1, 1),
        ("max_rows", "none", None),
        ("quantization", "int8", "int8"),
        ("quantization", "none", None),
    ],
)
def test_settings_of_the_sampler(key, value, expected):
    recipe = recipe_of(rollouts={key: value})
    assert getattr(recipe.rollouts, key) == expected
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_a_recipe_is_frozen_and_shares_nothing():
    config = {"learning_rate": {"class_name": "PolynomialDecay"}}
    recipe = recipe_of(optimizer={"config": config})
    config["learning_rate"]["class_name"] = "other"
    recipe.to_dict()["optimizer"]["config"].clear()
    assert recipe.optimizer.config == {"learning_rate": {"class_name": "PolynomialDecay"}}
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.model.preset = "other"


@pytest.mark.parametrize("path", sorted(presets_folder().glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_recipes_load_by_name_and_by_path(path):
    assert Recipe.load(path.stem) == Recipe.load(path) == Recipe.load(str(path))


def test_shipped_recipes_are_found():
    assert {"countdown_tiny", "gemma2_2b_en"} <= {path.stem for path in presets_folder().glob("*.toml")}


@pytest.mark.parametrize("handle", ["kaggle://keras/gemma2/keras/gemma2_2b_en/2", "hf://keras/gemma2_2b_en"])
def test_a_handle_takes_the_recipe_of_its_name(handle):
    recipe = Recipe.load(handle)
    assert recipe.model.preset == handle
    assert recipe.rollouts == Recipe.load("gemma2_2b_en").rollouts


@pytest.mark.parametrize(
    "section, built",
    [
        ("rollouts", "callbacks.rollout_callback.RolloutCallback"),
        ("loss", "losses.GRPOLoss"),
        ("distribution", "distribution.distribute.distribute"),
    ],
)
def test_sections_are_the_keyword_arguments_of_what_they_build(section, built):
    module, name = built.rsplit(".", 1)
    parameters = inspect.signature(getattr(importlib.import_module(f"keras_aha.{module}"), name)).parameters
    defaults = {key.name: key.default for key in dataclasses.fields(SECTIONS[section])}
    assert defaults == {key: parameters[key].default for key in defaults}


# === Errors ===


@pytest.mark.parametrize(
    "sections, sentence",
    [
        ({"modle": {}}, "Unknown section [modle]; the nearest is [model]. Received: modle={}"),
        ({"epochs": 3}, "Unknown section [epochs]; the nearest is training.epochs. Received: epochs=3"),
        ({"lora": 8}, "[lora] must be a table of keys. Received: lora=8"),
        (
            {"rollouts": {"group_sise": 8}},
            "Unknown key rollouts.group_sise; the nearest is rollouts.group_size. Received: rollouts.group_sise=8",
        ),
        (
            {"rollouts": {"micro_batch_size": 8}},
            "Unknown key rollouts.micro_batch_size; the nearest is training.micro_batch_size. "
            "Received: rollouts.micro_batch_size=8",
        ),
        (
            {"optimizer": {"learning_rate": 1, "config": {"learning_rate": 2}}},
            "Unknown key optimizer.learning_rate; the nearest is optimizer.config.learning_rate. "
            "Received: optimizer.learning_rate=1",
        ),
        ({"model": {}}, "The recipe lacks model.preset, which has no default."),
        ({"task": {}}, "The recipe lacks task.name, which has no default."),
        ({"rollouts": {"group_size": 1}}, "rollouts.group_size must be at least 2. Received: rollouts.group_size=1"),
        ({"rollouts": {"group_size": True}}, "must be an integer. Received: rollouts.group_size=True"),
        ({"rollouts": {"group_size": 2.0}}, "must be an integer. Received: rollouts.group_size=2.0"),
        ({"rollouts": {"temperature": 0}}, "must be above 0. Received: rollouts.temperature=0"),
        ({"rollouts": {"temperature": float("nan")}}, "must be a number. Received: rollouts.temperature=nan"),
        ({"rollouts": {"temperature": 10**400}}, "must be a number of 32 bits. Received: rollouts.temperature=1"),
        ({"rollouts": {"top_p": 1.5}}, "must be above 0 and at most 1. Received: rollouts.top_p=1.5"),
        ({"rollouts": {"min_p": 0}}, "must be above 0 and at most 1. Received: rollouts.min_p=0"),
        ({"rollouts": {"min_p": 1.01}}, "must be above 0 and at most 1. Received: rollouts.min_p=1.01"),
        ({"rollouts": {"max_rows": 0}}, "must be at least 1. Received: rollouts.max_rows=0"),
        ({"rollouts": {"max_rows": 2.5}}, 'must be an integer or "none". Received: rollouts.max_rows=2.5'),
        (
            {"rollouts": {"stop_strings": ["</answer>", ""]}},
            "rollouts.stop_strings must be texts, none of them empty. Received: rollouts.stop_strings=['</answer>', '",
        ),
        ({"rollouts": {"stop_strings": "</answer>"}}, "must be a list of strings. Received: rollouts.stop_strings='<"),
        ({"rollouts": {"stop_strings": [3]}}, "must be a list of strings. Received: rollouts.stop_strings=[3]"),
        ({"rollouts": {"quantization": "int4"}}, 'must be "int8" or "none". Received: rollouts.quantization='),
        ({"rollouts": {"top_k": "all"}}, "must be an integer or \"none\". Received: rollouts.top_k='all'"),
        ({"rollouts": {"advantage_scale": "mean"}}, 'must be "std" or "batch" or "none". Received'),
        ({"rollouts": {"advantage_baseline": "none"}}, 'must be "mean" or "leave_one_out". Received'),
        ({"rollouts": {"overlong_buffer": 0}}, "must be at least 1. Received: rollouts.overlong_buffer=0"),
        ({"rollouts": {"refills": -1}}, "must be from 0 to 100. Received: rollouts.refills=-1"),
        ({"loss": {"delta": 0}}, "must be above 0. Received: loss.delta=0"),
        ({"loss": {"entropy_coef": -0.1}}, "must be at least 0. Received: loss.entropy_coef=-0.1"),
        ({"loss": {"importance_cap": 0.5}}, "must be at least 1. Received: loss.importance_cap=0.5"),
        (
            {"loss": {"kl_estimator": "k4"}},
            'must be "k3" or "k1" or "k2" or "k1+" or "k3+". Received: loss.kl_estimator=\'k4\'',
        ),
        ({"loss": {"clip_range": [0.2, -0.1]}}, "must be above 0. Received: loss.clip_range=[0.2, -0.1]"),
        ({"loss": {"clip_range": [0.2]}}, "must be a number or a pair of numbers. Received: loss.clip_range=[0.2]"),
        (
            {"loss": {"aggregation": "mean"}},
            'must be "token_mean" or "sequence_mean" or "fixed_length". Received: loss.aggregation=\'mean\'',
        ),
        ({"loss": {"kl_coef": -1}}, "must be at least 0. Received: loss.kl_coef=-1"),
        ({"lora": {"target": "query"}}, "must be a list of strings. Received: lora.target='query'"),
        ({"lora": {"target": ["query", 1]}}, "must be a list of strings. Received: lora.target=['query', 1]"),
        ({"optimizer": {"config": 3}}, "must be a table. Received: optimizer.config=3"),
        ({"optimizer": {"config": {"x": None}}}, "a list or a table. Received: optimizer.config.x=None"),
        ({"task": {"name": "countdown", "puzzles": "\udcff"}}, "must be a string"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(sections, sentence):
    with pytest.raises(RecipeError, match=re.escape(sentence)) as error:
        recipe_of(**sections)
    assert "\n" not in str(error.value)


def test_unknown_recipes_name_the_nearest_and_all():
    with pytest.raises(RecipeError, match="'countdwon_tiny'; the nearest is 'countdown_tiny' of .*, gemma2_2b_en, "):
        Recipe.load("countdwon_tiny")


@pytest.mark.parametrize(
    "content, sentence",
    [
        (None, "cannot be read: No such file or directory"),
        (b"[model\n", "is not valid TOML: "),
        (b"\xff", "is not valid TOML: "),
        (b"[model]\npreset = 3\n", "model.preset must be a string. Received: model.preset=3"),
    ],
)
def test_unreadable_files_are_named(tmp_path, content, sentence):
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError, match=re.escape(str(path)) + ".*" + re.escape(sentence)):
        Recipe.load(path)


# === Overriding ===


@pytest.mark.parametrize(
    "assignment, section, key, value",
    [
        ("rollouts.group_size=8", "rollouts", "group_size", 8),
        (" rollouts.temperature = 1e-1 ", "rollouts", "temperature", 0.1),
        ("rollouts.advantage_scale=none", "rollouts", "advantage_scale", None),
        ("rollouts.advantage_scale=batch", "rollouts", "advantage_scale", "batch"),
        ("rollouts.advantage_baseline=leave_one_out", "rollouts", "advantage_baseline", "leave_one_out"),
        ("rollouts.overlong_buffer=128", "rollouts", "overlong_buffer", 128),
        ("rollouts.overlong_buffer=none", "rollouts", "overlong_buffer", None),
        ("rollouts.refills=2", "rollouts", "refills", 2),
        ("loss.kl_estimator=k1+", "loss", "kl_estimator", "k1+"),
        ("loss.delta=4", "loss", "delta", 4.0),
        ("loss.entropy_coef=1e-3", "loss", "entropy_coef", 1e-3),
        ("loss.importance_cap=2", "loss", "importance_cap", 2.0),
        ("loss.importance_cap=none", "loss", "importance_cap", None),
        ("loss.clip_range=[3e-4, 4e-4]", "loss", "clip_range", (3e-4, 4e-4)),
        ("rollouts.mask_truncated=true", "rollouts", "mask_truncated", True),
        ("rollouts.mask_truncated=yes", "rollouts", "mask_truncated", RecipeError),
        ("rollouts.mask_truncated=1", "rollouts", "mask_truncated", RecipeError),
        ("loss.ratio=sequence", "loss", "ratio", "sequence"),
        ("loss.ratio='sequence'", "loss", "ratio", "sequence"),
        ("model.preset=./runs/a=b/preset", "model", "preset", "./runs/a=b/preset"),
        ("model.preset=", "model", "preset", RecipeError),
        ('lora.target=["query", "value"]', "lora", "target", ("query", "value")),
        ("lora.target=[query, value]", "lora", "target", RecipeError),
        ("loss.clip_range=.5", "loss", "clip_range", RecipeError),
        ("optimizer.config.learning_rate=1e-3", "optimizer", "config", {"learning_rate": 1e-3, "beta_2": 0.99}),
        ("optimizer.config={}", "optimizer", "config", {}),
        ("task.num_numbers=[3, 4]", "task", "arguments", {"num_numbers": (3, 4)}),
        ("priming.habits.guess_rate=0.5", "priming", "habits", {"guess_rate": 0.5}),
        ("training.epochs=1\nseed=2", "training", "epochs", RecipeError),
        ("training.epochs.x=1", "training", "epochs", RecipeError),
        ("training.epochs", "training", "epochs", RecipeError),
        ("epochs=3", "training", "epochs", RecipeError),
        ("=3", "training", "epochs", RecipeError),
        ("training.=3", "training", "epochs", RecipeError),
        ("training.epoch=3", "training", "epochs", RecipeError),
        ("traning.epochs=3", "training", "epochs", RecipeError),
    ],
)
def test_override(assignment, section, key, value):
    recipe = recipe_of(optimizer={"config": {"learning_rate": {"class_name": "Decay"}, "beta_2": 0.99}})
    before = recipe.to_dict()
    if value is RecipeError:
        with pytest.raises(RecipeError):
            recipe.override([assignment])
    else:
        new = recipe.override([assignment])
        assert getattr(getattr(new, section), key) == value
        untouched = set(SECTIONS) - {section}
        assert all(new.to_dict()[name] == before[name] for name in untouched)
    assert recipe.to_dict() == before


def test_overrides_apply_in_order():
    recipe = recipe_of().override(["training.seed=1", "training.seed=2"]).override("training.epochs=5")
    assert (recipe.training.seed, recipe.training.epochs) == (2, 5)


# === Writing ===

text = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | text
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3))
tables = st.dictionaries(text, values, max_size=4)
positive = st.floats(1e-9, 1e9)
recipes = st.builds(
    recipe_of,
    model=st.fixed_dictionaries({"preset": text}, optional={"dtype": text}),
    lora=st.fixed_dictionaries(
        {}, optional={"rank": st.integers(0, 99), "alpha": st.floats(1e-3, 99), "target": st.lists(text)}
    ),
    task=st.builds(lambda table, name: table | {"name": name}, tables, text),
    rollouts=st.fixed_dictionaries(
        {},
        optional={
            "group_size": st.integers(2, 10**4),
            "mask_truncated": st.booleans(),
            "top_p": st.just("none") | st.floats(1e-9, 1),
            "stop_strings": st.lists(text.filter(bool), max_size=3),
            "advantage_scale": st.sampled_from(["std", "batch", "none"]),
            "overlong_buffer": st.just("none") | st.integers(1, 99),
        },
    ),
    loss=st.fixed_dictionaries({}, optional={"clip_range": positive | st.tuples(positive, positive)}),
    optimizer=st.fixed_dictionaries({}, optional={"class_name": text, "config": tables}),
    priming=st.fixed_dictionaries({}, optional={"habits": tables}),
)


@settings(deadline=None)
@given(recipes)
def test_a_dumped_recipe_loads_back_equal(recipe):
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "recipe.toml")
        recipe.dump(path)
        assert Recipe.load(path) == recipe
        written = path.read_bytes()
        Recipe.load(path).dump(path)
        assert path.read_bytes() == written


def test_the_dumped_file_is_what_a_person_would_write(tmp_path):
    recipe_of(
        task={"name": "countdown", "num_numbers": [3, 4]},
        optimizer={"config": {"learning_rate": {"class_name": "Decay"}, "beta_2": 0.99}},
    ).dump(tmp_path / "recipe.toml")
    written = (tmp_path / "recipe.toml").read_text()
    assert '[model]\npreset = "gemma2_2b_en"\ndtype = "float32"\n' in written
    assert '[task]\nname = "countdown"\nnum_numbers = [3, 4]\n' in written
    assert 'top_k = "none"\n' in written
    assert '[optimizer]\nclass_name = "AdamW"\n\n[optimizer.config]\nbeta_2 = 0.99\n' in written
    assert '[optimizer.config.learning_rate]\nclass_name = "Decay"\n' in written
