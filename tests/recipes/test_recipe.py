import dataclasses
import importlib
import inspect
import re
import tempfile
from pathlib import Path

from keras_aha.files import presets_folder
from keras_aha.recipes.changes import check_changes
from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.sections import SECTIONS, RecipeError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

SMALLEST = {"model": {"preset": "gemma2_2b_en"}, "task": {"name": "countdown"}}


def recipe_of(**sections):
    return Recipe.from_dict(SMALLEST | sections)


# === Reading ===


def test_values_get_the_types_that_are_declared():
    recipe = recipe_of(
        loss={"clip_range": [0.2, 1], "kl_coef": 1},
        rollouts={"advantage_scale": "none", "top_k": "none", "min_p": 1, "stop_strings": ["</answer>", "\n\n"]},
        task={"name": "countdown", "num_numbers": [3, 4]},
    )
    assert recipe.loss.clip_range == (0.2, 1.0)
    assert isinstance(recipe.loss.clip_range[1], float) and isinstance(recipe.loss.kl_coef, float)
    assert recipe.rollouts.advantage_scale is None and recipe.rollouts.top_k is None
    assert recipe.rollouts.min_p == 1.0 and recipe.rollouts.stop_strings == ("</answer>", "\n\n")
    assert recipe.task.arguments == {"num_numbers": (3, 4)}


def test_a_recipe_is_frozen_and_shares_nothing():
    config = {"learning_rate": {"class_name": "PolynomialDecay"}}
    recipe = recipe_of(optimizer={"config": config})
    config["learning_rate"]["class_name"] = "other"
    recipe.to_dict()["optimizer"]["config"].clear()
    assert recipe.optimizer.config == {"learning_rate": {"class_name": "PolynomialDecay"}}
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.model.preset = "other"


def test_a_shipped_recipe_loads_by_name_by_path_and_by_handle():
    path, handle = presets_folder() / "gemma2_2b_en.toml", "kaggle://keras/gemma2/keras/gemma2_2b_en/2"
    assert Recipe.load(path.stem) == Recipe.load(path) == Recipe.load(str(path))
    assert Recipe.load(handle) == Recipe.load(path).override(f"model.preset={handle}")


def test_a_folder_in_which_a_preset_lies_takes_the_recipe_of_its_name(tmp_path):
    folder = tmp_path / "größe 😀" / "gemma2_2b_en" / "2"
    folder.mkdir(parents=True)
    recipe = Recipe.load(folder)
    assert recipe.model.preset == str(folder)
    assert recipe.task == Recipe.load("gemma2_2b_en").task


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
    defaults.pop("long_prompts", None)  # which chooses the task's problems
    assert defaults == {key: parameters[key].default for key in defaults}


# === Errors ===


@pytest.mark.parametrize(
    "sections, sentence",
    [
        ({"modle": {}}, "Unknown section [modle]; the nearest is [model]. Received: modle={}"),
        ({"epochs": 3}, "Unknown section [epochs]; the nearest is training.epochs. Received: epochs=3"),
        ({"xyz": {}}, "Unknown section [xyz]. Received: xyz={}"),
        ({"lora": 8}, "[lora] must be a table of keys. Received: lora=8"),
        ({"rollouts": {"group_sise": 8}}, "key rollouts.group_sise; the nearest is rollouts.group_size. Received"),
        ({"rollouts": {"micro_batch_size": 8}}, "micro_batch_size; the nearest is training.micro_batch_size. Received"),
        ({"optimizer": {"learning_rate": 1, "config": {"learning_rate": 2}}}, "is optimizer.config.learning_rate. "),
        ({"model": {}}, "The recipe lacks model.preset, which has no default."),
        ({"task": {}}, "The recipe lacks task.name, which has no default."),
        ({"rollouts": {"prompts_per_epoch": 10**9}}, "must have fewer than 2**31 tokens: lower rollouts.prompts_per_"),
        ({"evaluation": {"puzzles": 10**6}}, "at most a million completions, puzzles times samples. Received: eval"),
        ({"optimizer": {"config": {"x": None}}}, "a list or a table. Received: optimizer.config.x=None"),
        ({"task": {"name": "countdown", "puzzles": "\udcff"}}, "task.puzzles must be a string"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(sections, sentence):
    with pytest.raises(RecipeError, match=re.escape(sentence)) as error:
        recipe_of(**sections)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "path, value, words",
    [
        ("rollouts.group_size", 1, "at least 2"),
        *(("rollouts.group_size", wrong, "an integer") for wrong in (True, 2.0)),
        *(("rollouts.temperature", wrong, "a number") for wrong in (float("nan"), "1")),
        ("rollouts.temperature", 0, "above 0"),
        ("rollouts.temperature", 10**400, "a number of 32 bits"),
        ("rollouts.min_p", 1.01, "above 0 and at most 1"),
        ("rollouts.max_rows", 2.5, 'an integer or "none"'),
        ("rollouts.stop_strings", ["</answer>", ""], "texts, none of them empty"),
        ("rollouts.stop_strings", "</answer>", "a list of strings"),
        ("rollouts.advantage_scale", "mean", '"std" or "batch" or "none"'),
        ("loss.kl_estimator", "k4", '"k3" or "k1" or "k2" or "k1+" or "k3+"'),
        ("loss.clip_range", [0.2, -0.1], "above 0"),
        ("loss.clip_range", [0.2], "a number or a pair of numbers"),
        ("lora.target", ["query", 1], "a list of strings"),
        ("optimizer.config", 3, "a table"),
    ],
)
def test_a_wrong_value_is_told_what_the_key_takes(path, value, words):
    section, key = path.split(".")
    with pytest.raises(RecipeError, match=re.escape(f"{path} must be {words}. Received: {path}={value!r}")):
        recipe_of(**{section: {key: value}})


def test_unknown_recipes_name_the_nearest_and_all():
    with pytest.raises(RecipeError, match="the nearest is 'countdown_tiny'. There are .*, gemma2_2b_en, "):
        Recipe.load("countdwon_tiny")
    with pytest.raises(RecipeError, match="'xyz'. There are "):
        Recipe.load("xyz")


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


PRIMED_ON_TWO = """
model.preset = "gemma2_2b_en"
task.name = "countdown"

[[priming.tasks]]
name = "countdown"
num_numbers = 3
habits = { max_attempts = 1 }

[[priming.tasks]]
name = "signs"
weight = 2
"""


def test_tasks_of_priming(tmp_path):
    path = tmp_path / "two.toml"
    path.write_text(PRIMED_ON_TWO)
    recipe = Recipe.load(path)
    first, second = recipe.priming.tasks
    assert (first.name, first.weight, first.arguments, first.habits) == (
        *("countdown", 1.0, {"num_numbers": 3}),
        {"max_attempts": 1},
    )
    assert (second.name, second.weight, second.arguments, second.habits) == ("signs", 2.0, {}, {})
    recipe.dump(path)
    assert Recipe.load(path) == recipe
    assert recipe.override('priming.tasks=[{name="sorting", n=3}]').priming.tasks[0].arguments == {"n": 3}
    assert recipe.override("priming.tasks=[]").priming.tasks == recipe.override("task.name=x").priming.tasks == ()


MIXED = """
model.preset = "gemma2_2b_en"

[[tasks]]
name = "countdown"
num_numbers = 3
weight = 2
habits = { max_attempts = 1 }

[[tasks]]
name = "reasoning_gym/chain_sum"

[[tasks]]
name = "own:Task"
label = "mine"

[[rewards]]
name = "brevity"
function = "own:brevity"
weight = -0.5

[[rewards]]
name = "polite"
judge = "http://localhost:8000/v1"
rubric = "{completion}\\nPolite?"
answers = { Yes = 1, No = 0.5 }
chat_form = "none"

[teacher]
preset = "self"
hint = "{prompt}{solution}"
"""


def test_several_tasks_and_rewards(tmp_path):
    path = tmp_path / "mixed.toml"
    path.write_text(MIXED)
    recipe = Recipe.load(path)
    assert recipe.task is None and list(recipe.asked) == ["tasks[0]", "tasks[1]", "tasks[2]"]
    assert [(task.name, task.weight, task.log_name) for task in recipe.tasks] == [
        *(("countdown", 2.0, "countdown"), ("reasoning_gym/chain_sum", 1.0, "chain_sum"), ("own:Task", 1.0, "mine")),
    ]
    assert recipe.tasks[0].arguments == {"num_numbers": 3} and recipe.tasks[0].habits == {"max_attempts": 1}
    assert dataclasses.astuple(recipe.rewards[0]) == ("brevity", "own:brevity", None, -0.5, {})
    judge = {"rubric": "{completion}\nPolite?", "answers": {"Yes": 1, "No": 0.5}, "chat_form": "none"}
    assert recipe.rewards[1].arguments == judge and recipe.rewards[1].function is None
    assert recipe.teacher.hint == "{prompt}{solution}" and recipe.teacher.dtype is None
    recipe.dump(path)
    assert Recipe.load(path) == recipe
    assert recipe.flat()["tasks[0].num_numbers"] == 3 and recipe.flat()["rewards[0].weight"] == -0.5
    again = recipe.override(["rewards[1].judge=https://there:1/v1", "rewards[1].answers.Yes=2", "rewards[1].retries=0"])
    assert again.rewards[1].judge == "https://there:1/v1" and again.rewards[1].arguments["retries"] == 0
    assert again.flat()["rewards[1].answers.Yes"] == 2 and again.rewards[1].arguments["answers"]["No"] == 0.5
    changed = recipe.override(["tasks[1].min_terms=3", "tasks[2].label=''", "rewards[0].weight=0", "rewards=[]"])
    assert changed.tasks[1].arguments == {"min_terms": 3} and changed.tasks[2].log_name == "Task"
    assert recipe.override("task.name=x").asked == recipe_of(task={"name": "x"}).asked
    alone = Recipe.load("gemma2_2b_en")
    assert list(alone.asked) == ["task"] and not {"tasks", "rewards"} & alone.to_dict().keys()
    both = alone.override('tasks=[{name="countdown"}, {name="signs"}]')
    assert both.task is None and [task.name for task in both.tasks] == ["countdown", "signs"]


@pytest.mark.parametrize(
    "change, sentence",
    [
        ("task.template=plain", "one [task], or several [[tasks]]: leave one of them out. Received: [task] with {'te"),
        ("tasks=3", "tasks must be a list of tables, [[tasks]]. Received: tasks=3"),
        (
            "tasks[3].weight=1",
            "tasks[3] is a value, or no table that there is, and holds no keys. Received: 'tasks[3].we",
        ),
        ("weight[0].x=1", "weight[0] is a value, or no table that there is, and holds no keys. Received: "),
        ("tasks[x].weight=1", "tasks[x] is a value, or no"),
        ("tasks[0].weight=0", "tasks[0].weight must be above 0. Received: tasks[0].weight=0"),
        (
            "tasks[0].label=low",
            'but not "low" or "high", of which there are columns already. Received: tasks[0].label=',
        ),
        ("tasks[0].label='a b'", "tasks[0].label must be of letters, digits, - and _, but"),
        (
            "tasks[0].label=mine",
            "[[tasks]] must differ in their label, by which logs tell them apart. Received: 'mine'",
        ),
        ("priming.habits={x=1}", "give each of the [[tasks]] habits of its own. Received: priming.habits={'x': 1}"),
        ("rewards[0].name=task", "but not \"task\", which is the task's own. Received: rewards[0].name='task'"),
        ('rewards=[{name="a"}]', "The reward 'a' needs a function or a judge, one of them. Received: function=None"),
        ('rewards=[{name="a", function="b:c", judge="d"}]', "a function or a judge, one of them. Received: function="),
        ('rewards=[{name="a", function="b:c", x=1}]', "'a' is a function, which takes no keys of a judge. Received: {"),
        ("rewards[1].weight=none", "rewards[1].weight must be a number. Received: rewards[1].weight='none'"),
        ("teacher.hint=none", 'a text with {prompt} and {solution} in it. Received: teacher.preset="self"'),
        ("teacher.dtype=float16", "are of another model's weights: leave them out. Received: teacher.preset"),
        ("teacher.kl=forward", 'teacher.kl must be "exact" or "sampled". Received: teacher.kl='),
        ("teacher.wieght=1", "Unknown key teacher.wieght; the nearest is teacher.weight. Received"),
        (
            'rewards=[{name="a", function="b:c"}, {name="a", function="b:d"}]',
            "must differ in their name, by which logs",
        ),
    ],
)
def test_several_tasks_and_rewards_that_cannot_be_used(change, sentence, tmp_path):
    (tmp_path / "mixed.toml").write_text(MIXED)
    with pytest.raises(RecipeError, match=re.escape(sentence)):
        Recipe.load(tmp_path / "mixed.toml").override(change)


@pytest.mark.parametrize(
    "priming, sentence",
    [
        ({"tasks": "countdown"}, "priming.tasks must be a list of tables, [[priming.tasks]]. Received: "),
        ({"tasks": [3]}, "Received: priming.tasks=[3]"),
        ({"tasks": [{"weight": 1}]}, "The recipe lacks priming.tasks[0].name, which has no default."),
        ({"tasks": [{"name": "a"}, {"name": "b", "weight": 0}]}, "priming.tasks[1].weight must be above 0. Received:"),
        ({"tasks": [{"name": "a", "habits": 3}]}, "priming.tasks[0].habits must be a table. Received: "),
        ({"tasks": [{"name": "a"}], "habits": {"b": 1}}, "give each of these tables habits of its own. Received: "),
    ],
)
def test_tasks_of_priming_that_cannot_be_used(priming, sentence):
    with pytest.raises(RecipeError, match=re.escape(sentence)):
        recipe_of(priming=priming)


# === Overriding ===


@pytest.mark.parametrize(
    "assignment, section, key, value",
    [
        ("rollouts.group_size=8", "rollouts", "group_size", 8),
        ("rollouts.advantage_scale=none", "rollouts", "advantage_scale", None),
        ("loss.kl_estimator=k1+", "loss", "kl_estimator", "k1+"),
        ("loss.clip_range=[3e-4, 4e-4]", "loss", "clip_range", (3e-4, 4e-4)),
        ("rollouts.mask_truncated=true", "rollouts", "mask_truncated", True),
        ("loss.ratio=sequence", "loss", "ratio", "sequence"),
        ("model.preset=./runs/a=b/preset", "model", "preset", "./runs/a=b/preset"),
        ("optimizer.config.learning_rate=1e-3", "optimizer", "config", {"learning_rate": 1e-3, "beta_2": 0.99}),
        ("optimizer.config={}", "optimizer", "config", {}),
        ("task.num_numbers=[3, 4]", "task", "arguments", {"num_numbers": (3, 4)}),
        ("priming.habits.guess_rate=0.5", "priming", "habits", {"guess_rate": 0.5}),
    ],
)
def test_override(assignment, section, key, value):
    recipe = recipe_of(optimizer={"config": {"learning_rate": {"class_name": "Decay"}, "beta_2": 0.99}})
    before = recipe.to_dict()
    new = recipe.override([assignment])
    assert getattr(getattr(new, section), key) == value
    assert all(new.to_dict()[name] == before[name] for name in set(SECTIONS) - {section})
    assert recipe.to_dict() == before


@pytest.mark.parametrize(
    "assignment",
    [
        *("training.epochs=1\nseed=2", "training.epochs.x=1", "training.epochs", "epochs=3", "=3", "training.=3"),
        *("training.epoch=3", "rollouts.mask_truncated=yes", "rollouts.mask_truncated=1", "model.preset="),
        *("lora.target=[query, value]", "loss.clip_range=.5"),
    ],
)
def test_no_override(assignment):
    with pytest.raises(RecipeError):
        recipe_of().override(assignment)


def test_overrides_apply_in_order():
    recipe = recipe_of().override(["training.seed=1", "training.seed=2"]).override(" training.epochs = 5 ")
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
    priming=st.fixed_dictionaries({}, optional={"habits": tables})
    | st.fixed_dictionaries({"tasks": st.lists(st.builds(lambda table, name: table | {"name": name}, tables, text))}),
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
    config = {"learning_rate": {"class_name": "Decay"}, "beta_2": 0.99}
    recipe_of(task={"name": "countdown", "num_numbers": [3, 4]}, optimizer={"config": config}).dump(tmp_path / "a.toml")
    written = (tmp_path / "a.toml").read_text()
    assert '[model]\npreset = "gemma2_2b_en"\ndtype = "float32"\n' in written
    assert '[task]\nname = "countdown"\nnum_numbers = [\n    3,\n    4,\n]\n' in written
    assert 'top_k = "none"\n' in written
    assert '[optimizer]\nclass_name = "AdamW"\n\n[optimizer.config]\nbeta_2 = 0.99\n' in written
    assert '[optimizer.config.learning_rate]\nclass_name = "Decay"\n' in written


# === Changes to a run ===


def test_what_a_run_may_go_on_with():
    began = recipe_of()
    assert check_changes(began, began) == []
    now = began.override(["training.epochs=200", "rollouts.max_rows=8"])
    assert check_changes(began, now) == ["rollouts.max_rows: None → 8", "training.epochs: 100 → 200"]
    assert check_changes(began, began.override("training.remat=true")) == ["training.remat: None → True"]
    limit = "rollouts.max_prompt_length"  # only grows
    assert check_changes(began, began.override(f"{limit}=1024")) == [f"{limit}: 512 → 1024"]
    with pytest.raises(RecipeError, match=f"another run.* Received: {limit}: 512 → 256"):
        check_changes(began, began.override(f"{limit}=256"))
    skipping = began.override("rollouts.long_prompts=skip")  # a higher one would let other problems in
    with pytest.raises(RecipeError, match=f"another run.* Received: {limit}: 512 → 1024"):
        check_changes(skipping, skipping.override(f"{limit}=1024"))
    assert check_changes(began, now.override("model.preset=b"), may_move=["model.preset"])
    with pytest.raises(RecipeError, match=r"Go on with .* Received: model\.preset: "):
        check_changes(began, now.override("model.preset=b"), may_move=["task.file"])
    with pytest.raises(RecipeError, match="Go on with the recipe.toml in .* Received: loss.kl_coef: 0.0 → 1"):
        check_changes(began, now.override("loss.kl_coef=1"))
    judged = began.override('rewards=[{name="a", judge="http://b", rubric="{completion}", seconds=9}]')
    faster = judged.override(["rewards[0].seconds=60", "rewards[0].concurrent=2", "teacher.weight=1"])
    assert check_changes(judged, faster) == ["rewards[0].seconds: 9 → 60", "rewards[0].concurrent: None → 2"]
    for change in ("rewards[0].rubric='{completion}!'", "rewards[0].weight=2", "teacher.preset=c", "rewards=[]"):
        with pytest.raises(RecipeError, match="It would be another run"):
            check_changes(judged, faster.override(change))
    scheduled = began.override("optimizer.config.learning_rate={class_name = 'CosineDecay'}")
    with pytest.raises(RecipeError, match="has a schedule over all epochs.* training.epochs: 100 → 9"):
        check_changes(scheduled, scheduled.override("training.epochs=9"))
