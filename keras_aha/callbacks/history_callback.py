"""`HistoryCallback`: the logs of every epoch as a CSV file that has a column for each."""

import csv
import os
import time
from collections.abc import Sequence

from keras_aha.callbacks.run_folder import write_rows
from keras_aha.evaluation.tables import BEHAVIOURS, TURNS
from keras_aha.files import local_path

import keras

_MACHINE = ["compiles", "mfu", "memory_gb", "peak_memory_gb"]
_COLUMNS = f"""
epoch reward accuracy format_rate completion_length truncated zero_std_groups generated_tokens {" ".join(BEHAVIOURS)}
loss entropy ratio clip_fraction sampler_gap grad_norm skipped_updates
val_accuracy val_greedy_accuracy val_format_rate val_completion_length {" ".join(f"val_{x}" for x in BEHAVIOURS)}
rollout_seconds update_seconds evaluation_seconds epoch_seconds
learning_rate failed_rewards task_reward overlong_penalty kl importance_weight
curriculum_level difficulty refilled_groups refill_tokens left_out_problems
tokens_per_second update_tokens_per_second {" ".join(_MACHINE)} val_accuracy_low val_accuracy_high
val_lenient_accuracy {" ".join(TURNS)} imitated_observations {" ".join(f"val_{x}" for x in TURNS)}
""".split()


def of_the_machine(column: str) -> bool:
    """Whether a column depends on the machine, or on how often a run was stopped, and not on the seed alone."""
    return "second" in column or column in _MACHINE


class HistoryCallback(keras.callbacks.Callback):
    """Writes one row an epoch: `epoch` (counted from 1), the rollout's logs, the model's metrics, `val_*`, seconds.

    All logs that there may be are columns from the first row on; a log that an epoch does not have stays empty. One
    that is not known before, such as `reward_<name>`, becomes the last column when it first comes. But for those of the
    machine, see `of_the_machine`, all are the same in two runs of one seed. Keras's `CSVLogger` takes its columns from
    the first epoch's logs and drops those of later evaluations.

    Args:
        path: of the file. One that is there is added to; columns that it lacks come after its own.
        columns: that the file begins with, instead of those of a `GRPOModel` and its rollouts.
    """

    def __init__(self, path: str | os.PathLike, columns: Sequence[str] | None = None):
        super().__init__()
        self.path = local_path(path)
        self.columns = _COLUMNS if columns is None else columns

    def on_train_begin(self, logs=None):
        self._last = time.perf_counter()
        self._columns = []
        self._add_columns(self.columns)

    def on_epoch_end(self, epoch, logs=None):
        now = time.perf_counter()
        # From one end to the next: rollout, update and evaluation, wherever this stands among the callbacks.
        logs["epoch_seconds"] = now - self._last
        self._last = now
        row = {"epoch": epoch + 1} | {name: value for name, value in logs.items() if value == value}  # and no NaN
        self._add_columns(row)
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self._columns, lineterminator="\n").writerow(row)

    def _add_columns(self, names):
        """Writes the file anew, with a header and empty cells in the rows that are there, if it lacks any."""
        if set(names) <= set(self._columns):
            return
        rows = []
        if self.path.exists():
            with open(self.path, encoding="utf-8", newline="") as file:
                rows = list(csv.reader(file))
        own = rows[0] if rows else []
        self._columns = [*own, *(name for name in names if name not in own)]
        width = len(self._columns)
        write_rows(self.path, [self._columns, *(row + [""] * (width - len(row)) for row in rows[1:])])
