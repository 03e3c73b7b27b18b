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
from digit_hunt import COUNTDOWN, DigitHunt
from tensorboard import plugin_util
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

SAMPLING = dict(max_completion_length=48, stop_tokens=tuple("abcdefghijklmnop"))  # a random model writes one soon


class FewDigits(DigitHunt):
    """In so many tokens three digits are right."""

    share, right = 0.01, 3


class NeverRight(FewDigits):
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
def fit(make_policy):
    """A function: trains all of a model's weights, from the same ones each time; returns the names of findings."""
    model = GRPOModel(make_policy(num_layers=1), completion_lengths=1)
    model.compile(keras.optimizers.Adam())
    variables = [*model.policy.variables, *model.optimizer.variables]
    start = [np.asarray(variable) for variable in variables]

    def run(doctor, epochs, *callbacks, task=FewDigits, learning_rate=1e-3, **settings):
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
    doctor.set_state({"said": [], "history": [history[-1]] * 100})
    fit(doctor, 1)
    assert len(doctor.get_state()["history"]) == 100
    assert len(json.dumps(doctor.get_state())) < 50_000


# === Faults ===


def test_weights_that_do_not_move(fit, doctor):
    assert fit(doctor, 2, learning_rate=0.0) == []
    assert fit(doctor, 1, learning_rate=0.0) == ["not_moving"]


def test_a_learning_rate_that_breaks_the_policy(fit, doctor):
    """Soon it writes one text only, which repeats itself and never ends."""
    assert {"entropy_collapse", "repeated_tails", "truncated"} <= set(fit(doctor, 7, task=NeverRight, learning_rate=1))


def test_a_reward_that_is_not_what_counts(fit, doctor):
    evaluation = EvaluateCallback(Countdown(**COUNTDOWN).held_out(2), every=5, samples=2, greedy=False, **SAMPLING)
    rewards = {"length": (lambda problem, completion: len(completion) / 100, 1.0)}
    assert "gamed" in fit(doctor, 25, evaluation, task=Countdown, rewards=rewards, learning_rate=0.03)


def test_a_trainer_that_has_other_weights_than_the_sampler(fit, doctor):
    """The change of several updates is no such gap."""
    assert fit(doctor, 3, Disturb(1.5), learning_rate=1e-5, updates_per_rollout=2) == []
    assert fit(doctor, 3, Disturb(1.5), learning_rate=1e-5) == ["sampler_apart"]


def test_gradients_that_are_not_finite(fit, doctor):
    assert fit(doctor, 1, GuardCallback(), Disturb(np.inf)) == ["not_finite"]


def test_programs_that_are_compiled_in_each_epoch(fit, doctor):
    calls = itertools.count()

    def growing(problem, completion):
        return jax.numpy.ones(1 + next(calls) // 16).sum()  # of another shape in each epoch, of 16 completions

    assert fit(doctor, 3, rewards={"growing": (growing, 0.0)}) == []  # the first epoch does not count
    assert fit(doctor, 2, rewards={"growing": (growing, 0.0)}) == ["compiling"]


# === What is said ===


def test_a_finding_is_said_once_everywhere(fit, doctor, tmp_path, capsys):
    """A run that is resumed hears nothing twice, and remembers the epochs before."""
    fit(doctor, 3, task=FormOnly)
    resumed = DoctorCallback(tmp_path / "run")
    resumed.set_state(json.loads(json.dumps(doctor.get_state(), allow_nan=False)))
    assert "compiles" not in resumed.get_state()["history"][-1]  # what another process compiled says nothing
    fit(resumed, 3, task=FormOnly)
    lines = [json.loads(line) for line in (doctor.log_dir / "findings.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["name"]) for line in lines] == [(3, "no_signal"), (2, "format_only")]
    texts = [" ".join([line["seen"], line["meaning"], line["remedy"]]) for line in lines]
    assert capsys.readouterr().out == f"\nDoctor, epoch 3: {texts[0]}\n\nDoctor, epoch 2: {texts[1]}\n"

    events = EventAccumulator(str(doctor.log_dir / "doctor"))
    events.Reload()
    shown = {event.step: tensor_util.make_ndarray(event.tensor_proto) for event in events.Tensors("doctor")}
    for step, text in {2: texts[0], 1: texts[1]}.items():  # as all other logs are counted there
        page = plugin_util.markdown_to_safe_html(shown[step][0])  # what TensorBoard itself makes of it
        assert set(re.findall("<[^>]*>", page)) == {"<p>", "</p>"}
        assert html.unescape(re.sub("<[^>]*>", "", page)).strip() == text

    rewind(doctor.log_dir, 2)  # for a run that goes on from there
    assert (doctor.log_dir / "findings.jsonl").read_text() == json.dumps(lines[1]) + "\n"
