"""Judges that a recipe describes; functions stand in test_build_task.py."""

import functools
import json
import re

from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.values import RecipeError
from keras_aha.runs.build_rewards import build_rewards, judge_class, judges_here, load_judges
from keras_aha.runs.experiment import with_absolute_paths
from keras_aha.runs.from_keys import make_from_keys
from keras_aha.tasks import Countdown
from keras_aha.training.judges.endpoint_judge import EndpointJudge
from keras_aha.training.judges.model_judge import ModelJudge
from keras_aha.training.judges.reward_model import RewardModel

import pytest
from finished_runs import make_run, trained

RECIPE_OF_ALL = Recipe.load("countdown_tiny").override("task.max_number=20")
ANSWERS = {"1": 1.0, "2": 0.0}  # which are tokens
JUDGE = dict(name="good", judge="countdown_tiny", rubric="{prompt}{completion}\n", answers=ANSWERS, max_length=64)


def judged(*changes, **keys):
    """The recipe with one judge, of `JUDGE` with other keys."""
    table = ", ".join(f"{key}={toml(value)}" for key, value in (JUDGE | keys).items())
    return RECIPE_OF_ALL.override([f"rewards=[{{{table}}}]", *changes])


def toml(value):
    if not isinstance(value, dict):
        return json.dumps(value)
    return f"{{{', '.join(f'{json.dumps(key)} = {number}' for key, number in value.items())}}}"


def only(recipe):
    [(judge, weight)] = build_rewards(recipe, Countdown(max_number=20)).values()
    assert weight == 1.0
    return judge


def test_a_judge_of_a_preset_has_the_keys_and_the_policys_dtype():
    judge = only(judged("model.dtype=bfloat16", chat_form="none", quantization="none", opponents=3))
    assert type(judge) is ModelJudge and judge.preset == "countdown_tiny" and judge.policy is None
    assert (judge.answers, judge.chat_form, judge.max_length, judge.opponents) == (ANSWERS, None, 64, 3)
    assert judge.weights == {"dtype": "bfloat16", "quantization": None}
    assert only(judged("model.dtype=bfloat16", dtype="float32")).weights["dtype"] == "float32"


def test_a_server_is_asked_by_its_address_and_its_key_is_not_read(monkeypatch):
    pytest.importorskip("openai", reason="extra `endpoint`")
    monkeypatch.setenv("MY_KEY", "secret")
    keys = {key: value for key, value in JUDGE.items() if key != "max_length"} | {"judge": "http://localhost:1/v1"}
    table = ", ".join(f"{key}={toml(value)}" for key, value in (keys | dict(model="m", key="MY_KEY")).items())
    recipe = RECIPE_OF_ALL.override(f"rewards=[{{{table}}}]")
    judge = only(recipe)
    assert type(judge) is EndpointJudge and judges_here(recipe) == {} == load_judges(recipe, {})
    assert with_absolute_paths(recipe).rewards == recipe.rewards  # an address is no path
    assert "secret" not in recipe.to_toml() and "MY_KEY" in recipe.to_toml()


def test_a_folder_with_a_head_is_a_reward_model(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["GemmaForSequenceClassification"]}')
    assert judge_class(str(tmp_path)) is RewardModel and judge_class("countdown_tiny") is ModelJudge
    with pytest.raises(RecipeError, match=r"Unknown key rewards\[0\].answers"):
        make_from_keys(functools.partial(RewardModel, 1, "x"), judged().rewards[0], "rewards[0]", "x")


def test_a_run_judges_by_its_last_policy(make_policy, tmp_path, monkeypatch):
    run = make_run(make_policy, tmp_path)
    monkeypatch.chdir(tmp_path)
    recipe = judged(judge="run")
    assert with_absolute_paths(recipe).rewards[0].judge == str(run)
    rewards = build_rewards(recipe, Countdown(max_number=20))
    assert list(load_judges(recipe, rewards)) == ["rewards[0].judge"]
    judge, _ = rewards["good"]
    expected = ModelJudge(judge.task, str(tmp_path / "base"), JUDGE["rubric"], answers=ANSWERS, max_length=64)
    expected.load(trained(run))
    texts = ["1+2", "<answer>"]
    assert judge.judge(texts) == expected.judge(texts) != only(judged(judge=str(tmp_path / "base"))).judge(texts)
    assert not judge.policy.trainable_variables
    for change in ("dtype='float32'", "quantization='int8'"):
        with pytest.raises(RecipeError, match=r"A run's weights are as .* leave rewards\[0\].dtype and .*out. Rec"):
            only(recipe.override(f"rewards[0].{change}"))
    (run / "adapters.lora.h5").unlink()
    with pytest.raises(RecipeError, match=r"\[rewards\[0\]\]: No epoch of the run is saved"):
        only(recipe)


@pytest.mark.parametrize(
    "keys, sentence",
    [
        (dict(judge="countdwon_tiny"), "[rewards[0]]: No preset has that name; the nearest is 'countdown_tiny'"),
        (dict(judge="./gone"), "name the new place (--set rewards[0].judge=FOLDER). Received: preset='./gone'"),
        (dict(rubrik="x"), "Unknown key rewards[0].rubrik; the nearest is rewards[0].rubric. Received: "),
        (dict(wieght=1), "Unknown key rewards[0].wieght; the nearest is rewards[0].weight. Received: "),
        (dict(preset="x"), "Unknown key rewards[0].preset"),
        (dict(rubric="Good?"), "[rewards[0]]: `rubric` must be a format string with the field {completion}"),
        (dict(dtype="int8"), "[rewards[0]]: `dtype` must be one of"),
        (dict(dtype=8), "[rewards[0]]: countdown_tiny cannot be made of the section's keys: "),
        (dict(answers={"1": 1.0}), "[rewards[0]]: `answers` must be a table of two texts or more"),
        (dict(answers={"Yes": 1.0, "No": 0.0}), "[rewards[0]]: Each of `answers` must be one token"),
        (dict(rubric="<|im_start|>{completion}"), "no tokens <|im_start|>, so the model would read them letter"),
        (dict(rubric="<bos>{completion}"), "leave it out of rewards[0].rubric"),
        (dict(chat_form="llama3"), "set rewards[0].chat_form=gemma, its family's, or one without marks, such as none."),
    ],
)
def test_what_a_judge_cannot_be_made_of_is_said_before_weights_are_loaded(keys, sentence, monkeypatch):
    monkeypatch.setattr(ModelJudge, "load", None)
    with pytest.raises(RecipeError, match=re.escape(sentence)) as error:
        only(judged(**keys))
    assert "\n" not in str(error.value)
