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
    share, right = 0.01, 3


class NeverRight(FewDigits):
    right = 1000  # digits


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
        doctor.weights = DoctorCallback(doctor.log_dir, rollouts).weights
        model.fit(rollouts.dataset, epochs=epochs, callbacks=[rollouts, *callbacks, doctor], verbose=0)
        return doctor.get_state()["said"]

    return run


@pytest.fixture
def doctor(tmp_path):
    return DoctorCallback(tmp_path / "run")


def test_a_healthy_run_hears_nothing(fit, doctor, capsys):
    assert fit(doctor, 12, GuardCallback()) == []
    assert capsys.readouterr().out == "" and not doctor.log_dir.exists()
    history = doctor.get_state()["history"]
    assert [epoch["moved"] for epoch in history] == [1.0] * 12
    assert ["compiles" in epoch for epoch in history] == [False] + [True] * 11  # the first one compiles everything
    assert ["final_kl" in epoch for epoch in history] == [False] * 10 + [True, False]
    doctor.set_state({"said": [], "history": [history[-1]] * 100, "probe": None})
    fit(doctor, 1)
    assert len(doctor.get_state()["history"]) == 100 and len(json.dumps(doctor.get_state())) < 50_000


@pytest.mark.parametrize(
    "found, epochs, callbacks, settings",
    [
        ({"not_moving"}, 3, [], dict(learning_rate=0.0)),
        # Soon the policy writes one text only, which repeats itself and never ends.
        ({"entropy_collapse", "repeated_tails", "truncated"}, 7, [], dict(task=NeverRight, learning_rate=1)),
        ({"not_finite"}, 1, [GuardCallback(), Disturb(np.inf)], {}),
        # A trainer that has other weights than the sampler; the change of several updates is no such gap.
        ({"sampler_apart"}, 3, [Disturb(1.5)], dict(learning_rate=1e-5)),
        (set(), 3, [Disturb(1.5)], dict(learning_rate=1e-5, updates_per_rollout=2)),
        ({"hardly_moving"}, 12, [], dict(learning_rate=1e-6)),  # and not those of the healthy run, at 1e-3
    ],
)
def test_faults(fit, doctor, found, epochs, callbacks, settings):
    said = set(fit(doctor, epochs, *callbacks, **settings))
    assert found <= said and bool(found) == bool(said)


def test_a_reward_that_is_not_what_counts(fit, doctor):
    evaluation = EvaluateCallback(Countdown(**COUNTDOWN).held_out(2), every=5, samples=2, greedy=False, **SAMPLING)
    rewards = {"length": (lambda problem, completion: len(completion) / 100, 1.0)}
    assert "gamed" in fit(doctor, 25, evaluation, task=Countdown, rewards=rewards, learning_rate=0.03)
    assert "The reward 'length' rose from " in (doctor.log_dir / "findings.jsonl").read_text()


def test_programs_that_are_compiled_in_each_epoch(fit, doctor):
    calls = itertools.count()  # of 16 completions an epoch, each of which has another shape
    rewards = {"growing": (lambda problem, completion: jax.numpy.ones(1 + next(calls) // 16).sum(), 0.0)}
    assert fit(doctor, 3, rewards=rewards) == []  # the first epoch does not count
    assert fit(doctor, 2, rewards=rewards) == ["compiling"]


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
