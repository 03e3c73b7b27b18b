import os
import sys

from keras_aha.callbacks.progress_callback import ProgressCallback

import pytest

LOGS = {"reward": 0.25, "accuracy": 0.125, "completion_length": 40.0, "tokens_per_second": 1234.5, "loss": 9.0}


def show(*changes, epochs=10):
    callback = ProgressCallback()
    callback.set_params({"epochs": epochs})
    callback.on_train_begin()
    for epoch, changed in enumerate(changes):
        callback.on_epoch_end(epoch, LOGS | changed)


def test_a_log_file_gets_plain_lines(capsys):
    """With a held-out accuracy and skipped updates only in epochs that have some."""
    show({"val_accuracy": 0.5, "skipped_updates": 0.0}, {"skipped_updates": 0.5}, {"skipped_updates": 0.0})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["1/10", "2/10", "3/10"] and lines[0].startswith(" 1/10  ")
    usual = "reward 0.250  accuracy 0.125  length 40.0  tokens/s 1234"
    ends = ["  val_accuracy 0.500", "  skipped 0.50", ""]
    assert [line.partition(" s  ")[2] for line in lines] == [usual + end for end in ends]


@pytest.mark.parametrize("columns, lines", [(160, 1), (80, 2)])
def test_a_wide_terminal_gets_one_bar(capsys, monkeypatch, columns, lines):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((columns, 40)))
    show({"val_accuracy": 0.5}, {}, epochs=2)
    shown = capsys.readouterr().out
    assert shown.count("\n") == lines and "2/2" in shown and ("tokens/s: 1234.5000" in shown) == (lines == 1)
