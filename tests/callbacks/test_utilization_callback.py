"""`UtilizationCallback` in a real `fit` of a tiny policy, on a rollout that is written by hand."""

import dataclasses

from keras_aha.callbacks.utilization_callback import UtilizationCallback
from keras_aha.losses import GRPOLoss
from keras_aha.models import lora
from keras_aha.models.flops import forward_flops, update_flops
from keras_aha.training.grpo_model import GRPOModel
from keras_aha.training.rollout import Rollout
from keras_aha.training.rollout_dataset import RolloutDataset
from keras_aha.training.teacher import Teacher

import keras
import numpy as np
import pytest

LENGTHS, COMPLETIONS = [8, 6, 6, 5], [4, 2, 3, 1]  # tokens of a row, and of them completion
SHARE = [1 / 3, 1 / 3, 1, 1 / 3]  # prompts are the same four tokens, but for the third's three
PEAK = 1e9
UPDATES = 2


@pytest.fixture(scope="module")
def trained(make_policy):
    """`(model, logs of two epochs)`, with a KL."""
    model = GRPOModel(make_policy("gemma", lora_rank=2))
    model.compile("sgd", GRPOLoss(kl_coef=0.1))
    position, completions = np.arange(8), np.array(COMPLETIONS)
    end = 4 + completions[:, None]
    mask = ((position >= end - np.array(LENGTHS)[:, None]) & (position < end)).astype("int32")
    rollout = Rollout(
        token_ids=mask * (5 + position).astype("int32"),
        padding_mask=mask,
        completion_mask=mask[:, -4:].astype("float32"),
        old_log_probs=np.full((4, 4), -3.0, "float32"),
        sampler_log_probs=np.full((4, 4), -3.0, "float32"),
        advantages=np.array([1, -1, 0.5, -0.5], "float32"),
        temperature=np.ones(4, "float32"),
        **dict.fromkeys(("rewards", "truncated", "problems", "texts", "scores"), ()),
    )
    model.rollout, dataset = rollout, RolloutDataset(UPDATES)
    fill = keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: setattr(dataset, "batch", rollout.batch()))
    callbacks = [fill, UtilizationCallback(peak_flops=PEAK)]
    return model, model.fit(dataset, epochs=2, callbacks=callbacks, verbose=0).history


def test_tokens_are_those_of_the_padding_mask_and_flops_those_of_policy_and_reference(trained):
    model, logs = trained
    for seconds, speed in zip(logs["update_seconds"], logs["update_tokens_per_second"], strict=True):
        assert seconds * speed == pytest.approx(UPDATES * (8 + 6 + 6 + 5)) and seconds > 0
    backbone = model.policy.backbone
    flops = update_flops(backbone, LENGTHS, COMPLETIONS, SHARE)
    with lora.adapters_off(backbone):
        flops += forward_flops(backbone, LENGTHS, COMPLETIONS, SHARE)
    for seconds, mfu in zip(logs["update_seconds"], logs["mfu"], strict=True):
        assert seconds * mfu == pytest.approx(UPDATES * flops / PEAK)
    for now, peak in zip(logs["memory_gb"], logs["peak_memory_gb"], strict=True):
        assert 0.1 < now <= peak < 1000


def test_without_a_reference_and_without_a_known_peak(trained, monkeypatch):
    model, _ = trained
    monkeypatch.setattr(model.grpo_loss, "kl_coef", 0.0)
    logs = logs_of(model, UtilizationCallback(PEAK))
    flops = update_flops(model.policy.backbone, LENGTHS, COMPLETIONS, SHARE)
    assert logs["mfu"] * logs["update_seconds"] == pytest.approx(UPDATES * flops / PEAK)
    assert "mfu" not in logs_of(model, UtilizationCallback())  # a CPU is in no table


def logs_of(model, callback):
    """Of an epoch without its updates, on the rollout that the model has."""
    callback.set_model(model)
    callback.set_params({"steps": UPDATES})
    callback.on_epoch_begin(0)
    logs = {}
    callback.on_epoch_end(0, logs)
    return logs


def test_a_teacher_counts_with_the_prompts_that_it_reads(trained, monkeypatch, make_policy):
    model, _ = trained
    teacher = Teacher(make_policy("gemma", num_layers=1))
    monkeypatch.setattr(model, "teacher", teacher)
    monkeypatch.setattr(model, "rollout", dataclasses.replace(model.rollout, teacher_prompt_mask=np.ones((4, 7), "i4")))
    for name, number in (("kl_coef", 0.0), ("teacher_coef", 1.0)):
        monkeypatch.setattr(model.grpo_loss, name, number)
    logs = logs_of(model, UtilizationCallback(PEAK))
    flops = update_flops(model.policy.backbone, LENGTHS, COMPLETIONS, SHARE)
    flops += forward_flops(teacher.policy.backbone, 7 + np.array(COMPLETIONS), COMPLETIONS, SHARE)
    assert logs["mfu"] * logs["update_seconds"] == pytest.approx(UPDATES * flops / PEAK)
