"""The policy after any saved epoch of a run that was stopped, killed or finished."""

import os
import shutil

import keras_aha as aha
from keras_aha.callbacks.checkpoint_callback import CheckpointCallback
from keras_aha.callbacks.evaluate_callback import EvaluateCallback
from keras_aha.callbacks.rollout_callback import RolloutCallback
from keras_aha.callbacks.run_folder import checkpoint_folder
from keras_aha.models import lora
from keras_aha.models.lora import ADAPTERS
from keras_aha.recipes.recipe import RECIPE, Recipe
from keras_aha.recipes.sections import RecipeError
from keras_aha.runs.build_policy import build_policy
from keras_aha.runs.check_files import PRESET, check_log_dir
from keras_aha.runs.experiment import Experiment
from keras_aha.runs.export import export
from keras_aha.runs.run import Run
from keras_aha.runs.trained_policy import load_trained

import keras_hub
import numpy as np
import pytest
from conftest import SMALL


def stop(*args, **kwargs):
    raise KeyboardInterrupt


def fit_until(experiment, folder, callback, method, epoch):
    """Trains until a method of a callback is called in an epoch, counted from 0; returns the values after each."""
    values, original, saving = {}, getattr(callback, method), CheckpointCallback.on_epoch_end

    def stopping(self, index, logs=None):
        stop() if index == epoch else original(self, index, logs)

    def recording(self, index, logs=None):
        saving(self, index, logs)
        values[index + 1] = arrays(self.model.policy)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callback, method, stopping)
        patch.setattr(CheckpointCallback, "on_epoch_end", recording)
        with pytest.raises(KeyboardInterrupt):
            Run(experiment, folder, resume=True).fit()
    return values


@pytest.fixture(scope="module", params=[2, 0], ids=["adapters", "every_weight"])
def stopped(request, make_policy, tmp_path_factory):
    """`(folder, values after each epoch)` of a run that was interrupted in its third rollout, without rewards: it is
    the decay of weights that makes each epoch another policy."""
    folder = tmp_path_factory.mktemp("runs")
    make_policy().save_to_preset(str(folder / "tiny"))
    changes = [*SMALL, f'model.preset="{folder / "tiny"}"', f"lora.rank={request.param}", "training.epochs=4"]
    changes += ["optimizer.class_name=AdamW", "optimizer.config.weight_decay=0.5", "optimizer.config.learning_rate=0.1"]
    experiment = Experiment(Recipe.load("countdown_tiny").override([*changes, "evaluation.every=2"]))
    return folder / "run", fit_until(experiment, folder / "run", RolloutCallback, "on_epoch_begin", 2)


@pytest.fixture
def folder(stopped, tmp_path):
    return shutil.copytree(stopped[0], tmp_path / "run")


def arrays(policy):
    return [np.array(variable.value) for variable in policy.trainable_variables]


def same(found, expected):
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


def result_of(folder):
    """The values of what stands in a run's folder to be taken home."""
    recipe = Recipe.load(folder / RECIPE)
    if not recipe.lora.rank:
        return arrays(keras_hub.models.CausalLM.from_preset(str(folder / PRESET)))
    policy = build_policy(recipe)
    lora.load_adapters(policy.backbone, folder / ADAPTERS)
    return arrays(policy)


def test_each_saved_epoch_can_be_had(stopped):
    folder, values = stopped
    recipe = Recipe.load(folder / RECIPE)
    assert not same(values[1], values[2]) and same(result_of(folder), values[2])
    for epoch, expected in [(1, 1), (2, 2), ("last", 2), ("best", 2)]:
        assert same(arrays(load_trained(recipe, folder, epoch)), values[expected])
    for epoch in (3, "first"):
        with pytest.raises(ValueError, match=f'{epoch!r} is not saved: `epoch` must be one of 1, 2, "best" or "last"'):
            load_trained(recipe, folder, epoch)


def test_what_is_measured_and_exported_is_said(stopped, tmp_path):
    folder, values = stopped
    result = aha.evaluate(folder, epoch=1, against=folder)
    assert (result.numbers["epoch"], result.numbers["comparison"]["epoch"]) == (1, 2)
    assert result.completions.groupby("epoch").size().to_dict() == {1: 9, 2: 6}
    for epoch, words in [(1, "It was not tried on held-out puzzles after that epoch."), ("best", "| accuracy, greedy")]:
        (exported,) = export(folder, tmp_path / str(epoch), ["keras"], epoch=epoch)
        card = (exported / "README.md").read_text()
        assert f"This is the policy after {1 if epoch == 1 else 2} of 4 epochs." in card and words in card
    if (folder / PRESET).exists():
        assert same(arrays(keras_hub.models.CausalLM.from_preset(str(exported))), values[2])
    with pytest.raises(ValueError, match="A preset has no epochs: leave `epoch` out. Received: 'countdown_tiny'"):
        aha.evaluate("countdown_tiny", epoch="best")


def test_what_an_earlier_stop_has_written_is_not_taken(folder, tmp_path, monkeypatch):
    """Killed in the fourth rollout. The file of the earlier stop is gone then; if it is not, as of an earlier version,
    it is passed by."""
    recipe = Recipe.load(folder / RECIPE)
    name = ADAPTERS if recipe.lora.rank else PRESET
    (shutil.copytree if name == PRESET else shutil.copy)(folder / name, tmp_path / name)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_save_policy", lambda *args, **settings: None)
        values = fit_until(Experiment(recipe), folder, RolloutCallback, "on_epoch_begin", 3)
    assert not (folder / name).exists()
    for is_back in (False, True):
        if is_back:
            (tmp_path / name).rename(folder / name)
        assert same(arrays(load_trained(recipe, folder)), values[3])
        if recipe.lora.rank:
            start = recipe.override(f'lora.start="{folder}"')
            assert same(arrays(build_policy(start)), values[3])
            with pytest.raises(RecipeError, match="multiplied them by another alpha: set lora.alpha=2"):
                build_policy(start.override("lora.alpha=3"))


def test_an_interrupt_amid_an_epoch_leaves_the_policy_before_it(stopped, folder, monkeypatch):
    """As a second Ctrl-C does. A third one, while the policy is written, leaves none, and no half."""
    experiment = Experiment(Recipe.load(folder / RECIPE))
    fit_until(experiment, folder, EvaluateCallback, "on_epoch_end", 2)
    assert same(result_of(folder), stopped[1][2])
    assert not [path for path in folder.iterdir() if path.name.startswith("part-")]

    def half(policy, path):
        policy.backbone.save_to_preset(path)
        stop()

    monkeypatch.setattr(type(experiment.model.policy), "save_to_preset", half)
    monkeypatch.setattr(lora, "save_adapters", stop)
    with pytest.raises(KeyboardInterrupt):
        Run(experiment, folder, resume=True)._save_policy()
    assert not (folder / PRESET).exists() and not (folder / ADAPTERS).exists()


def test_what_is_measured_is_what_is_saved(stopped, folder):
    """Whatever a callback of the user's does to weights as training ends, or after the last evaluation."""
    run = Run(Experiment(Recipe.load(folder / RECIPE)), folder, resume=True)
    run.evaluate_before()
    run.experiment.evaluation.latest = 0, "of the first epoch", "of the first epoch"
    run.finish()
    assert same(result_of(folder), stopped[1][2]) and same(arrays(run.experiment.model.policy), stopped[1][2])
    assert len(run.after[0]) == 6


def test_a_policy_without_checkpoints_is_neither_lost_nor_refused(stopped, folder):
    recipe = Recipe.load(folder / RECIPE)
    os.truncate(checkpoint_folder(folder) / "1" / "record" / "metadata", 9)
    with pytest.raises(ValueError, match=r"The checkpoint after epoch 1 cannot be read: choose another `epoch`, of "):
        load_trained(recipe, folder, 1)
    shutil.rmtree(checkpoint_folder(folder))
    assert same(arrays(load_trained(recipe, folder)), stopped[1][2])
    assert aha.evaluate(folder).numbers["epoch"] is None
    with pytest.raises(ValueError, match="has a policy and no checkpoints, so it would begin anew and lose it"):
        check_log_dir(folder, recipe, resume=True)
