"""Teachers that a recipe describes, and experiments with models beside the policy."""

import re

from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.values import RecipeError
from keras_aha.runs import build_teacher as building
from keras_aha.runs.build_policy import build_policy
from keras_aha.runs.build_teacher import build_loss, build_teacher, check_teacher
from keras_aha.runs.evaluate import evaluate
from keras_aha.runs.experiment import Experiment, with_absolute_paths
from keras_aha.runs.sources import base_checksum, source_checksums

import numpy as np
import pytest
from conftest import SMALL, tiny_policy
from finished_runs import make_run, trained
from tiny_models import tiny_tokenizer

TINY = Recipe.load("countdown_tiny").override(SMALL)
HINT = "teacher.hint='{prompt}The answer is {solution}.\n'".replace("'", '"""')
JUDGE = 'rewards=[{name="good", judge="countdown_tiny", rubric="{completion}", max_length=16, weight=0, '
JUDGE += "answers={1=1.0, 2=0.0}}]"


def test_there_is_no_teacher_by_default():
    assert build_teacher(TINY) is None and build_loss(TINY).teacher_coef == 0
    check_teacher(TINY)


def test_a_teacher_of_a_preset():
    recipe = TINY.override(["teacher.preset=countdown_tiny", "teacher.weight=0.5", "teacher.temperature=2"])
    recipe = recipe.override(["teacher.kl=sampled", "loss.surrogate_coef=0", "model.dtype=bfloat16"])
    check_teacher(recipe)
    teacher, loss = build_teacher(recipe), build_loss(recipe)
    assert (teacher.temperature, teacher.kl, teacher.hint) == (2.0, "sampled", None)
    assert (loss.teacher_coef, loss.surrogate_coef) == (0.5, 0)
    backbone = teacher.policy.backbone
    assert backbone.token_embedding.compute_dtype == "bfloat16" and not teacher.policy.trainable_variables
    int8 = build_teacher(recipe.override(["teacher.quantization=int8", "teacher.dtype=float32"])).policy.backbone
    assert int8.token_embedding.quantization_mode == "int8" and int8.token_embedding.compute_dtype == "float32"


def test_the_policy_teaches_itself_by_a_hint():
    recipe = TINY.override(["teacher.preset=self", HINT])
    check_teacher(recipe)
    teacher = build_teacher(recipe)
    assert teacher.policy is None and teacher.hint == "{prompt}The answer is {solution}.\n"
    assert with_absolute_paths(recipe).teacher.preset == "self"


def test_a_run_teaches_by_its_last_policy_and_the_folder_is_known_by_its_weights(make_policy, tmp_path, monkeypatch):
    run = make_run(make_policy, tmp_path)
    monkeypatch.chdir(tmp_path)
    recipe = with_absolute_paths(TINY.override("teacher.preset=run"))
    assert recipe.teacher.preset == str(run)
    teacher = build_teacher(recipe).policy
    values = [variable.numpy() for variable in teacher.variables]
    expected = [variable.numpy() for variable in trained(run).variables]
    assert all(map(np.array_equal, values, expected)) and not teacher.trainable_variables
    found = source_checksums(recipe, build_policy(recipe), {"teacher.preset": teacher})
    assert found["teacher.preset"] == base_checksum(teacher) != base_checksum(trained(run))  # adapters count


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (["teacher.preset=countdwon_tiny"], "[teacher]: No preset has that name; the nearest is 'countdown_tiny'"),
        (["teacher.preset=./gone"], "(--set teacher.preset=FOLDER). Received: preset='./gone'"),
        (["teacher.preset=OTHER"], "teacher.preset='OTHER', model.preset='countdown_tiny'"),
        (["teacher.preset=countdown_tiny", "teacher.dtype=float8"], "[teacher]: `dtype` must be one of"),
        (["teacher.preset=self", 'teacher.hint="{solution} {x}"'], "[teacher]: `hint` must have {prompt}, {solution}"),
        (["teacher.preset=self", "teacher.hint='<|im_start|>{prompt}{solution}'"], "set a teacher.hint without them."),
    ],
)
def test_teachers_that_cannot_be_used_are_refused_before_loading(changes, sentence, tmp_path, monkeypatch):
    if "OTHER" in changes[0]:
        policy, other = tiny_policy("gemma"), str(tmp_path / "other")
        policy.preprocessor.tokenizer = tiny_tokenizer("gemma", ("<mine>", "<yours>"))
        policy.save_to_preset(other)
        changes, sentence = [f'teacher.preset="{other}"'], sentence.replace("OTHER", other)
    monkeypatch.setattr(building.OtherModel, "load", None)
    with pytest.raises(RecipeError, match=re.escape(sentence)):
        Experiment(TINY.override(changes))


def test_models_beside_the_policy_change_nothing_of_where_it_begins(tmp_path):
    """A judge and a teacher of weight 0: adapters, completions and the evaluation are those of a run without them."""
    alone, beside = (
        Experiment(TINY.override(["lora.rank=2", *more]))
        for more in ([], [JUDGE, "teacher.preset=countdown_tiny", "teacher.weight=0"])
    )
    assert alone.others == {} and list(beside.others) == ["rewards[0].judge", "teacher.preset"]
    adapters = [[v.numpy() for v in each.model.trainable_variables] for each in (alone, beside)]
    assert all(map(np.array_equal, *adapters))
    assert beside.evaluation.grader.rewards["good"][0] is beside.rollouts.grader.rewards["good"][0]
    tables = [each.evaluate()[0] for each in (alone, beside)]
    assert tables[0]["text"].equals(tables[1]["text"])
    assert tables[1]["reward_good"].between(0, 1).all() and "reward_good" not in tables[0]


def test_who_only_evaluates_loads_no_teacher(make_policy, tmp_path, monkeypatch):
    run = make_run(make_policy, tmp_path, teacher__preset="countdown_tiny", evaluation__puzzles=2)
    monkeypatch.setattr(building, "build_teacher", None)
    monkeypatch.setattr(building.OtherModel, "load", None)
    assert evaluate(run, changes=["rollouts.max_completion_length=4"]).numbers["n"] == 2
