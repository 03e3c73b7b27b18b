import os
import sys

from keras_aha.callbacks.progress_callback import ProgressCallback

LOGS = {"reward": 0.25, "accuracy": 0.125, "completion_length": 40.0, "tokens_per_second": 1234.5, "loss": 9.0}


def show(epochs=2):
    callback = ProgressCallback()
    callback.set_params({"epochs": epochs})
    callback.on_train_begin()
    callback.on_epoch_end(0, LOGS | {"val_accuracy": 0.5})
    callback.on_epoch_end(1, LOGS)


def test_a_log_file_gets_plain_lines(capsys):
    show(epochs=10)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(" 1/10  ")
    assert first.endswith("reward 0.250  accuracy 0.125  length 40.0  tokens/s 1234  val_accuracy 0.500")
    assert second.endswith("val_accuracy 0.500")  # the latest there is


def test_a_wide_terminal_gets_one_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((160, 40)))
    show()
    shown = capsys.readouterr().out
    assert shown.count("\n") == 1 and "2/2" in shown and "tokens/s: 1234.5000" in shown


def test_a_narrow_terminal_gets_plain_lines(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((80, 40)))
    show()
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_skipped_updates_are_shown_from_the_first_on(capsys):
    callback = ProgressCallback()
    callback.set_params({"epochs": 3})
    callback.on_train_begin()
    for epoch, skipped in enumerate([0.0, 0.5, 0.0]):
        callback.on_epoch_end(epoch, LOGS | {"skipped_updates": skipped})
    first, second, third = capsys.readouterr().out.splitlines()
    assert "skipped" not in first
    assert second.endswith("skipped 0.50") and third.endswith("skipped 0.00")
