"""What `check` says of a machine, and that it says so if something is wrong."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from keras_aha.models import abstract_backbone
from keras_aha.models.head import float32_logits
from keras_aha.models.policy import random_policy
from keras_aha.planner.checks import checking, numerics, speed
from keras_aha.planner.checks.check_record import CheckFinding, CheckReport, first_sentence
from keras_aha.planner.checks.kill_and_resume import kill_and_resume
from keras_aha.planner.checks.trial import Trial
from keras_aha.planner.planning import plan

import numpy as np
import pytest
from tiny_models import SHAPES

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import check as script  # noqa: E402

TINY = {"gemma_2": "gemma2_2b_en", "gemma_3": "gemma3_270m"}
KINDS = {"gemma_2": "GemmaBackbone", "gemma_3": "Gemma3Backbone"}


@pytest.fixture
def known(monkeypatch):
    """Presets whose architecture is known by name, so small that they compile in seconds."""
    tables = {name: dict(class_name=KINDS[s], vocabulary_size=300, **SHAPES[s]) for s, name in TINY.items()}
    monkeypatch.setattr(abstract_backbone, "_known", lambda: {name: dict(table) for name, table in tables.items()})


def test_a_random_policy_has_adapters_that_move_it(known):
    policy = random_policy(TINY["gemma_2"], dtype="bfloat16", lora_rank=2)
    backbone, tokens = policy.backbone, np.arange(100, 112)[None]
    assert backbone.token_embedding.compute_dtype == "bfloat16" and len(policy.trainable_variables) > 4
    assert all(np.asarray(variable, "float32").any() for variable in policy.trainable_variables)
    names = {tensor: np.ones_like(tokens) for tensor in backbone.input} | {"token_ids": tokens}
    logits = np.asarray(float32_logits(backbone.token_embedding, backbone(names)))
    assert np.isfinite(logits).all() and logits.std() > 0.1


def test_the_command_prints_a_table_and_writes_nothing_personal(known, monkeypatch, tmp_path, capsys):
    """A check that ends by an error is one line, without its path, and the others go on."""

    def broken(folder):
        raise OSError(f"No space is left in {Path.home()}/runs: remove something. Received: {tmp_path}")

    monkeypatch.setattr(checking, "kill_and_resume", broken)
    file = tmp_path / "numbers.json"
    assert script.main(["--json", str(file), "--set", "lora.rank=2"]) == 1
    said, written = capsys.readouterr(), file.read_text()
    report = json.loads(written)
    shapes = dict(model="gemma3_270m", weights="random", dtype="bfloat16", rows=4, micro_batch=4)
    assert report["shapes"] == shapes | dict(prompt_length=16, completion_length=72)
    verdicts = {finding["name"]: finding["verdict"] for finding in report["findings"]}
    models = ("countdown_tiny", "gemma3_270m")
    expected = {
        f"{name}: {model}": "right" for name in ("sampler and trainer", "logits in float32") for model in models
    }
    expected |= {f"all devices as one: {model}": "nothing to compare" for model in models}
    expected |= {"does it fit": "right", "memory of an update": "right", "a kill and a resume": "failed"}
    expected |= dict.fromkeys(["devices", "time to compile", "decode step", "update", "peak memory"], "no prediction")
    assert verdicts == expected
    measured = {finding["name"]: finding["measured"] for finding in report["findings"]}
    assert measured["a kill and a resume"] == "OSError: No space is left in …: remove something"
    assert [line[8:].strip() for line in said.err.splitlines() if " s  " in line] == list(verdicts)
    assert "Not as it should be: a kill and a resume." in said.out
    for secret in (socket.gethostname(), str(Path.home()), os.getcwd(), str(tmp_path), sys.prefix):
        assert secret not in written


def test_what_is_wrong_is_said(monkeypatch):
    trial = Trial(checking._small("countdown_tiny", ["rollouts.max_completion_length=8", "lora.rank=2"]))
    assert numerics.sampler_and_trainer("gap", trial).verdict == "right"
    sampled = trial.sampled
    trial.sampled = sampled._replace(value=sampled.value._replace(log_probs=sampled.value.log_probs - 0.1))
    assert numerics.sampler_and_trainer("gap", trial).verdict == "wrong"
    rounded = lambda *args: float32_logits(*args).astype("bfloat16").astype("float32")  # noqa: E731
    monkeypatch.setattr(numerics, "float32_logits", rounded)
    assert numerics.head("head", trial).verdict == "wrong"
    planned = plan(trial.recipe, "local")
    assert speed.memory("memory", trial, planned).verdict == "right"
    phases = {"train": {part: 2 * size for part, size in planned.phases["train"].items()}}
    assert speed.memory("memory", trial, dataclasses.replace(planned, phases=phases)).verdict == "wrong"
    for seconds, verdict in ((2.0, "right"), (0.5, "wrong"), (9.0, "slow")):
        assert speed._timed("update", seconds, 10, least=1.0).verdict == verdict


def test_a_report_is_right_unless_something_is_wrong_and_names_no_folder(tmp_path):
    shapes = dict(model="m", weights="real", dtype="float32", rows=1, prompt_length=1, completion_length=1)

    def report(*verdicts):
        findings = tuple(CheckFinding("a check", "–", "1 s", verdict) for verdict in verdicts)
        return CheckReport(shapes=shapes, versions={"jax": "0"}, findings=findings, seconds=1.0)

    assert report("right", "slow", "no prediction", "nothing to compare").is_right
    assert not report("right", "wrong").is_right and not report("failed").is_right
    assert Trial(checking._small("countdown_tiny", [f'model.preset="{tmp_path}"'])).name == "your model"
    with pytest.raises(ValueError, match="a decoder of our own"):
        Trial(checking._small("qwen3_0.6b_en", []))
    assert first_sentence(ValueError("It broke. More in C:\\Users\\ann")) == "ValueError: It broke"


@pytest.mark.slow
def test_a_kill_and_a_resume(tmp_path):
    saved, different = kill_and_resume(tmp_path)
    assert saved in (1, 2) and different == []
    assert len((tmp_path / "killed" / "history.csv").read_text().splitlines()) == 4


@pytest.mark.slow
def test_two_devices_draw_the_tokens_of_one():
    code = (
        "from keras_aha.planner.checks import checking, numerics; from keras_aha.planner.checks.trial import Trial; "
        "trial = Trial(checking._small('countdown_tiny', ['lora.rank=2', 'rollouts.max_completion_length=16'])); "
        "print(numerics.one_device_and_all('all', trial).verdict)"
    )
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    child = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert child.stdout.strip() == "right", child.stderr[-2000:]
