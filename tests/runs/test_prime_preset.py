"""A model taught by rows of one's own: what is refused, killed, resumed, and what goes on from there."""

import json
import os
import shlex
import signal
import sys
from pathlib import Path

from keras_aha.callbacks.checkpoint_callback import CheckpointCallback
from keras_aha.models.policy import load_policy
from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.values import RecipeError, assignment
from keras_aha.runs import prime_preset, priming_folder
from keras_aha.runs.priming_examples import build_examples
from keras_aha.tasks import Countdown

import numpy as np
import pandas as pd
import pytest
from conftest import SMALL
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import fit  # noqa: E402
import prime  # noqa: E402

CURVE = ["epoch", "loss", "val_loss"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    rows = [{"prompt": f"Use {i} {i + 1} to", "answer": "1+2=3 no\n" * (1 + i % 5), "n": i} for i in range(60)]
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def flags(make_policy, tmp_path_factory, file):
    preset = tmp_path_factory.mktemp("presets") / "tiny"
    make_policy("gemma", num_layers=1).save_to_preset(str(preset))
    changes = [*SMALL, assignment("model.preset", str(preset)), assignment("priming.file", str(file))]
    changes += ["priming.steps=4", "priming.batch_size=8", "priming.held_out_share=0.2", "priming.learning_rate=0.01"]
    return [part for change in changes for part in ("--set", change)]


@pytest.fixture(scope="module")
def unbroken(flags, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken") / "primed"
    assert prime.main(["--out", str(out), *flags]) == 0
    return out


def weights(out):
    return [np.asarray(variable) for variable in load_policy(str(out), lora_rank=0).variables]


def rates(out):
    events = EventAccumulator(str(out / "priming" / "train")).Reload()
    values = (tensor.tensor_proto for tensor in events.Tensors("epoch_learning_rate"))
    return [float(np.frombuffer(value.tensor_content, "float32")[0]) for value in values]


def test_it_is_told_how_to_go_on(flags, tmp_path, capsys, unbroken):
    """By GRPO, with a command that works; and when it is asked for again."""
    assert prime.main(["--out", str(unbroken), "--resume", *flags]) == 0
    shown = capsys.readouterr().out
    assert f"{unbroken} is primed already." in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("next, GRPO: python scripts/fit.py ")]
    argv = [*shlex.split(line)[4:], "--log-dir", str(tmp_path / "run")]
    _, recipe, _ = fit.find_run(fit.parse(argv), argv)
    assert recipe.model.preset == str(unbroken) and recipe.rollouts.group_size == 2 and recipe.lora.rank == 2
    curve = pd.read_csv(unbroken / "priming.csv")
    assert curve["epoch"].tolist() == [1, 2, 3, 4] and np.isfinite(curve[CURVE]).all(axis=None)
    assert not (unbroken / "priming" / "saved_epochs").exists() and len(rates(unbroken)) == 4


@pytest.mark.parametrize("adapters", ["false", "true"])
def test_what_is_killed_goes_on_to_the_same_end(adapters, flags, tmp_path, monkeypatch, capsys, unbroken):
    """After an epoch, by a signal, and as the preset is saved; a folder is no preset before it is complete."""
    out, flags = tmp_path / "primed", [*flags, "--set", f"priming.adapters={adapters}"]
    command, save = ["--out", str(out), "--resume", *flags], CheckpointCallback.on_epoch_end

    def killed(end):
        def on_epoch_end(self, epoch, logs=None):
            save(self, epoch, logs)
            end(epoch)

        with monkeypatch.context() as patch:
            patch.setattr(CheckpointCallback, "on_epoch_end", on_epoch_end)
            return prime.main(command)

    def stop(epoch):
        if epoch == 1:
            raise MemoryError

    with pytest.raises(MemoryError):
        killed(stop)
    assert not (out / "config.json").exists()
    assert killed(lambda epoch: os.kill(os.getpid(), signal.SIGTERM)) == 128 + signal.SIGTERM
    shown = capsys.readouterr().out
    assert f"Go on: python scripts/prime.py --resume --out {out}" in shown
    assert "3/4 " in shown and "  loss " in shown and "  val_loss " in shown
    with pytest.raises(SystemExit):
        prime.main(["--out", str(out), *flags])
    assert "holds a priming that was stopped: go on with it by resume=True" in capsys.readouterr().err
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Path, "replace", lambda self, to: stop(1) if self.name == "config.json" else os.replace(self, to))
        prime.main(command)
    assert (out / "model.weights.h5").exists() and not (out / "config.json").exists()
    assert prime.main(["--out", str(out), "--resume"]) == 0  # by its own recipe
    assert {path.name for path in out.iterdir()} == {path.name for path in unbroken.iterdir()}
    if adapters == "false":
        pd.testing.assert_frame_equal(
            pd.read_csv(out / "priming.csv")[CURVE], pd.read_csv(unbroken / "priming.csv")[CURVE]
        )
        assert rates(out) == rates(unbroken)
        for one, other in zip(weights(out), weights(unbroken), strict=True):
            np.testing.assert_array_equal(one, other)


def test_another_priming_is_refused(flags, file, gemma, tmp_path):
    rows, _ = build(file, gemma)
    recipe, out = Recipe.load("countdown_tiny").override(flags[1::2]), tmp_path / "out"
    out.mkdir()
    priming_folder.begin(out, recipe, False, rows[1:])
    (out / "priming" / "saved_epochs" / "1").mkdir(parents=True)
    for changes, new, words in (
        ("priming.seed=7", False, r"priming.seed: \d → 7"),
        ("evaluation.puzzles=2", True, "new: False → True"),
    ):
        with pytest.raises(RecipeError, match=f"another priming than the one that was stopped in .*{words}"):
            priming_folder.check_out(out, recipe.override(changes), new, resume=True)
    priming_folder.check_out(out, recipe.override("evaluation.puzzles=2"), False, resume=True)
    with pytest.raises(ValueError, match="The rows are not those with which the priming in .* began"):
        priming_folder.begin(out, recipe, False, rows)
    (out / "priming" / "began.json").write_text("{")
    with pytest.raises(ValueError, match="began.json cannot be read: begin in another folder"):
        priming_folder.check_out(out, recipe, False, resume=True)
    (out / "priming" / "saved_epochs" / "1").rmdir()  # stopped before an epoch was saved, so there is nothing to keep
    priming_folder.check_out(out, recipe.override("priming.seed=7"), True, resume=False)
    assert not (out / "priming").exists()


# === Rows ===


def build(file, gemma, *changes):
    recipe = Recipe.load("countdown_tiny").override([assignment("priming.file", str(file)), *changes])
    return build_examples(recipe, gemma.preprocessor.tokenizer, Countdown(template="compact").held_out(5))


def test_long_rows_are_refused_or_left_out(file, gemma):
    with pytest.raises(RecipeError, match=r"^24 of 60 rows are longer than 30 tokens; the longest has 39, Line 5 of r"):
        build(file, gemma, "priming.max_length=30")
    with pytest.warns(UserWarning, match="24 of 60 rows are longer than 30 tokens; .* They are left out."):
        own, held_out = build(file, gemma, "priming.max_length=30", "priming.long_rows=skip")
    assert len(own) + len(held_out) == 36 and max(example.length for example in own) <= 30
    with pytest.warns(UserWarning), pytest.raises(RecipeError, match="No row is left to train on"):
        build(file, gemma, "priming.max_length=2", "priming.long_rows=skip")


def test_what_is_held_out_is_not_trained_on(file, gemma, tmp_path):
    """A file of its own, or a share; and nothing of the task's held-out problems."""
    problems = Countdown(template="compact").held_out(5)
    rows = [{"prompt": problems.prompt(problems.problem(i)), "answer": "4"} for i in (1, 3)]
    rows += [{"prompt": "Use 7 8 to", "answer": "5"}, {"prompt": "Use 99 to", "answer": "6"}]
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.warns(UserWarning, match="2 rows are not trained on: their prompts are held out."):
        own, held_out = build(other, gemma, "priming.held_out_share=0")
    assert len(own) == 2 and held_out is None
    with pytest.warns(UserWarning, match="1 rows are not trained on"):
        own, held_out = build(file, gemma, assignment("priming.held_out_file", str(other)))
    assert len(own) == 59 and len(held_out) == 4
    own, held_out = build(file, gemma, "priming.held_out_share=0.5")
    assert len(own) + len(held_out) == 60 and 15 < len(held_out) < 45


@pytest.mark.parametrize("changes, words", [
    (["priming.prompt=promt"], r"Line 1 of rows.jsonl has no `promt`; the nearest is `prompt`.*: priming.file="),
    (["priming.chat_form=chatml"], "set priming.chat_form=gemma, its family's, or one without marks, such as none"),
    (["priming.messages=n"], "Line 1 of rows.jsonl cannot be imitated: its messages must be a list"),
    (["priming.prompt='{prompt'"], r"^\[priming\]: "),
    (["priming.stop_token='<x>'"], "The vocabulary has no token '<x>' to end a turn with"),
])  # fmt: skip
def test_rows_that_cannot_be_used(file, gemma, changes, words):
    with pytest.raises(RecipeError, match=words):
        build(file, gemma, *changes)


def test_nothing_is_loaded_for_rows_that_are_bad(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prime_preset, "build_policy", None)
    with pytest.raises(SystemExit):
        prime.main(["--out", str(tmp_path / "out"), *flags, "--set", "priming.max_length=20"])
    assert "rows are longer than 20 tokens" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
