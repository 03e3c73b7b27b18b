"""`HistoryCallback`: the logs of every epoch as a CSV file with fixed columns."""

import csv
import os
import time

from keras_aha.evaluation.tables import BEHAVIOURS

import keras

_ROLLOUT = ("reward", "accuracy", "format_rate", "completion_length", "truncated", "zero_std_groups")
_ROLLOUT += ("generated_tokens", *BEHAVIOURS)
_HELD_OUT = ("val_accuracy", "val_greedy_accuracy", "val_format_rate", "val_completion_length")
_HELD_OUT += ("val_accuracy_low", "val_accuracy_high")
_HELD_OUT += tuple(f"val_{name}" for name in BEHAVIOURS)
_SECONDS = ("rollout_seconds", "update_seconds", "evaluation_seconds", "epoch_seconds")


class HistoryCallback(keras.callbacks.Callback):
    """Writes one row an epoch: `epoch` (counted from 1), the rollout's logs, the model's metrics, `val_*`, seconds.

    Only columns that depend on the machine have `seconds` in their name, so two runs of one seed can be compared. A log
    that an epoch does not have stays empty. Keras's `CSVLogger` takes its columns from the first epoch's logs and would
    drop those of later evaluations.

    Args:
        path: of the file. One that is there is added to.
    """

    def __init__(self, path: str | os.PathLike):
        super().__init__()
        self.path = path

    def on_train_begin(self, logs=None):
        metrics = [metric.name for metric in self.model.metrics]
        self._last = time.perf_counter()
        columns = ["epoch", *_ROLLOUT, *metrics, *_HELD_OUT, *_SECONDS]
        self._file = open(self.path, "a+", encoding="utf-8", newline="")
        self._file.seek(0)
        own = next(csv.reader(self._file), None)  # of a run that an earlier version began
        self._writer = csv.DictWriter(self._file, own or columns, extrasaction="ignore", lineterminator="\n")
        if own is None:
            self._writer.writeheader()

    def on_epoch_end(self, epoch, logs=None):
        now = time.perf_counter()
        # From one end to the next: rollout, update and evaluation, wherever this stands among the callbacks.
        logs["epoch_seconds"] = now - self._last
        self._last = now
        self._writer.writerow({"epoch": epoch + 1} | logs)
        self._file.flush()

    def on_train_end(self, logs=None):
        self._file.close()
