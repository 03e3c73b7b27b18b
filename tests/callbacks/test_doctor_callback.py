"""`DoctorCallback` in a real `fit` of a tiny random model, with each fault caused for real."""

import html
import itertools
import json
import re

from keras_aha.callbacks.doctor_callback import DoctorCallback
from keras_aha.callbacks.evaluate_callback import EvaluateCallback
from keras_aha.callbacks.guard_callback import GuardCallback
from keras_aha.callbacks.rollout_callback import RolloutCallback
from keras_aha.callbacks.run_folder import rewind
from keras_aha.tasks.countdown import Countdown
from keras_aha.tasks.task import Score
from keras_aha.training.grpo_model import GRPOModel

import jax
import keras
import numpy as np
import pytest
from tensorboard import plugin_util
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

COUNTDOWN = dict(num_numbers=3, max_number=10, template="compact")
SAMPLING = dict(max_completion_length=48, stop_tokens=tuple("abcdefghijklmnop"))  # a random model writes one soon


class DigitHunt(Countdown):
    """Countdown's puzzles and prompts, with a reward that a random model earns now and then: digits written."""

    right = 3

    def score(self, problem, completion):
        digits = sum(character.isdigit() for character in completion)
        correct = digits >= self.right
        return Score(min(1.0, digits / 100), correct, "correct" if correct else "wrong_value")


class NeverRight(DigitHunt):
    """So many digits that no completion is right."""

    right = 1000


class FormOnly(Countdown):
    """Whatever is written has the form of an answer and is wrong."""

    def score(self, problem, completion):
        return Score(0.1, False, "wrong_value")


class Disturb(keras.callbacks.Callback):
    """Multiplies the weights between the rollout and the update."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def on_epoch_begin(self, epoch, logs=None):
        for variable in self.model.trainable_variables:
            variable.assign(variable * self.factor)


@pytest.fixture(scope="module")
def model(make_policy):
    """All of whose weights are trained; whoever trains it brings it back with `fit`."""
    model = GRPOModel(make_policy(num_layers=1), completion_lengths=1)
    model.compile(keras.optimizers.Adam())
    return model


@pytest.fixture(scope="module")
def fit(model):
    """A function: trains from the same weights each time and returns the names of what was found."""
    variables = [*model.policy.variables, *model.optimizer.variables]
    start = [np.asarray(variable) for variable in variables]

    def run(doctor, epochs, *callbacks, task=DigitHunt, learning_rate=1e-3, **settings):
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
        model.optimizer.learning_rate = learning_rate
        rollouts = RolloutCallback(task(**COUNTDOWN), prompts_per_epoch=4, group_size=4, **SAMPLING, **settings)
        model.fit(rollouts.dataset, epochs=epochs, callbacks=[rollouts, *callbacks, doctor], verbose=0)
        return doctor.get_state()["said"]

    return run


@pytest.fixture
def doctor(tmp_path):
    return DoctorCallback(tmp_path / "run")


def test_a_healthy_run_hears_nothing(fit, doctor, capsys):
    assert fit(doctor, 6, GuardCallback()) == []
    assert capsys.readouterr().out == "" and not doctor.log_dir.exists()
    history = doctor.get_state()["history"]
    assert [epoch["moved"] for epoch in history] == [1.0] * 6
    assert ["compiles" in epoch for epoch in history] == [False] + [True] * 5  # the first one compiles everything


# === Faults ===


def test_weights_that_do_not_move(fit, doctor):
    assert fit(doctor, 2, learning_rate=0.0) == []
    assert fit(doctor, 1, learning_rate=0.0) == ["not_moving"]


def test_a_task_that_pays_for_form_only(fit, doctor):
    assert fit(doctor, 5, task=FormOnly) == ["no_signal", "format_only"]


def test_a_learning_rate_that_breaks_the_policy(fit, doctor):
    """Soon it writes one text only, which repeats itself and never ends."""
    assert {"entropy_collapse", "repeated_tails", "truncated"} <= set(fit(doctor, 7, task=NeverRight, learning_rate=1))


def test_a_reward_that_is_not_what_counts(fit, doctor):
    evaluation = EvaluateCallback(Countdown(**COUNTDOWN).held_out(2), every=5, samples=2, greedy=False, **SAMPLING)
    rewards = {"length": (lambda problem, completion: len(completion) / 100, 1.0)}
    assert "gamed" in fit(doctor, 25, evaluation, task=Countdown, rewards=rewards, learning_rate=0.03)


def test_a_trainer_that_has_other_weights_than_the_sampler(fit, doctor):
    assert fit(doctor, 3, Disturb(1.5), learning_rate=1e-5) == ["sampler_apart"]


def test_the_change_of_several_updates_is_no_gap(fit, doctor):
    assert fit(doctor, 3, Disturb(1.5), learning_rate=1e-5, updates_per_rollout=2) == []


def test_gradients_that_are_not_finite(fit, doctor):
    assert fit(doctor, 1, GuardCallback(), Disturb(np.inf)) == ["not_finite"]


def test_programs_that_are_compiled_in_each_epoch(fit, doctor):
    calls = itertools.count()

    def growing(problem, completion):
        return jax.numpy.ones(1 + next(calls) // 16).sum()  # of another shape in each epoch, of 16 completions

    assert fit(doctor, 3, rewards={"growing": (growing, 0.0)}) == []  # the first epoch does not count
    assert fit(doctor, 2, rewards={"growing": (growing, 0.0)}) == ["compiling"]


# === What is said ===


def test_a_finding_is_said_once_everywhere(fit, doctor, capsys):
    fit(doctor, 6, task=FormOnly)
    lines = [json.loads(line) for line in (doctor.log_dir / "findings.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["name"]) for line in lines] == [(3, "no_signal"), (5, "format_only")]
    texts = [" ".join([line["seen"], line["meaning"], line["remedy"]]) for line in lines]
    assert capsys.readouterr().out == f"\nDoctor, epoch 3: {texts[0]}\n\nDoctor, epoch 5: {texts[1]}\n"

    events = EventAccumulator(str(doctor.log_dir / "doctor"))
    events.Reload()
    shown = events.Tensors("doctor")
    assert [event.step for event in shown] == [2, 4]  # as all other logs are counted there
    for event, text in zip(shown, texts, strict=True):
        (markdown,) = tensor_util.make_ndarray(event.tensor_proto)
        page = plugin_util.markdown_to_safe_html(markdown)  # what TensorBoard itself makes of it
        assert set(re.findall("<[^>]*>", page)) == {"<p>", "</p>", "<code>", "</code>"}
        assert html.unescape(re.sub("<[^>]*>", "", page)).strip() == text.replace("`", "")

    rewind(doctor.log_dir, 4)  # for a run that goes on from there
    assert (doctor.log_dir / "findings.jsonl").read_text() == json.dumps(lines[0]) + "\n"


def test_a_resumed_run_goes_on(fit, doctor, tmp_path, capsys):
    fit(doctor, 3, task=FormOnly)
    state = json.loads(json.dumps(doctor.get_state(), allow_nan=False))
    resumed = DoctorCallback(tmp_path / "run")
    resumed.set_state(state)
    capsys.readouterr()
    fit(resumed, 2, task=FormOnly)  # epochs 4 and 5 of the run
    assert resumed.get_state()["said"] == ["no_signal", "format_only"]
    assert capsys.readouterr().out.count("Doctor, ") == 1


def test_what_another_process_compiled_is_forgotten(doctor):
    """Each compiles its evaluations when it comes to the first, which says nothing of the run."""
    doctor.set_state({"said": [], "history": [{"compiles": 6.0, "reward": 0.5}] * 3})
    assert doctor.get_state()["history"] == [{"reward": 0.5}] * 3


def test_what_is_remembered_has_a_bound(fit, doctor):
    fit(doctor, 1)
    (epoch,) = doctor.get_state()["history"]
    doctor.set_state({"said": [], "history": [epoch] * 100})
    fit(doctor, 1)
    assert len(doctor.get_state()["history"]) == 100
    assert len(json.dumps(doctor.get_state())) < 50_000
