"""A run of thousands of epochs: do memory, file handles, threads, history.csv and epochs stay as they were?

    python benchmarks/long_run.py                         2,000 epochs, about half an hour on two cores
    python benchmarks/long_run.py --epochs 300

The embedded model writes four completions of eight tokens an epoch, and everything that a run writes is written.
Prints a line twenty times, and draws the five curves into a PNG if one is named. Ends with exit code 1 if one of them
rises from the middle of the run to its end by more than the limits below.

Resident memory creeps by some 60 KiB an epoch, for a reason that is not proved: by `mallinfo2` and `gc.get_objects`
what is in use stays where it is (431 MiB after 120 epochs, 432 after 360).
"""

import argparse
import gc
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from keras_aha.callbacks.progress_callback import ProgressCallback
from keras_aha.callbacks.run_folder import HISTORY
from keras_aha.recipes.recipe import Recipe
from keras_aha.runs.experiment import Experiment
from keras_aha.runs.run import Run

import keras
import pandas as pd
from process import resident_mib

TINY = [
    *("rollouts.prompts_per_epoch=2", "rollouts.group_size=2", "rollouts.max_completion_length=8"),
    *("training.micro_batch_size=none", "training.completion_lengths=1", "lora.rank=2"),
    *("evaluation.puzzles=2", "evaluation.samples=1", "evaluation.every=50"),
]
# What a curve may rise by from the middle of the run to its end. A row of history.csv takes some microseconds.
LIMITS = {
    "resident MiB": lambda middle: 0.03 * middle,
    "file handles": lambda middle: 3,
    "threads": lambda middle: 3,
    "history ms": lambda middle: middle + 10,
    "epoch ms": lambda middle: 0.25 * middle,
}


class Watch(keras.callbacks.Callback):
    """Measures at every `every`-th epoch; the seconds are medians since the last time."""

    def __init__(self, history: Path, every: int):
        super().__init__()
        self.history, self.every = history, every
        self.rows, self._seconds = [], []

    def on_train_begin(self, logs=None):
        self._last = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self._seconds.append(time.perf_counter() - self._last)
        if (epoch + 1) % self.every == 0:
            self._measure(epoch + 1)
        self._last = time.perf_counter()

    def _measure(self, epoch):
        gc.collect()
        start = time.perf_counter()
        pd.read_csv(self.history)
        read = time.perf_counter() - start
        values = (resident_mib(), len(os.listdir("/proc/self/fd")), threading.active_count())
        values += (round(1e3 * read, 1), round(1e3 * statistics.median(self._seconds), 1))
        self.rows.append(dict(epoch=epoch) | dict(zip(LIMITS, values, strict=True)))
        self._seconds = []
        print("  ".join(f"{name} {value}" for name, value in self.rows[-1].items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=2000, help="(default: %(default)s)")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the curves")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe.load("countdown_tiny").override([*TINY, f"training.epochs={args.epochs}"])
        run = Run(Experiment(recipe), Path(folder, "run"))
        arguments = run.fit_arguments()
        watch = Watch(run.log_dir / HISTORY, max(1, args.epochs // 20))
        callbacks = [callback for callback in arguments["callbacks"] if not isinstance(callback, ProgressCallback)]
        run.experiment.model.fit(**arguments | dict(callbacks=[*callbacks, watch]))
        run.finish()
    table = pd.DataFrame(watch.rows).set_index("epoch")
    if args.plot:
        table.plot(subplots=True, figsize=(8, 10), legend=True, ylim=(0, None))[-1].figure.savefig(args.plot)
    half = table.iloc[len(table) // 2 :]
    middle, end = half.head(3).median(), half.tail(3).median()
    rising = {
        name: f"{middle[name]:g} → {end[name]:g}"
        for name in LIMITS
        if end[name] - middle[name] > LIMITS[name](middle[name])
    }
    print(f"rising: {rising}" if rising else "all five are flat")
    sys.exit(bool(rising))


if __name__ == "__main__":
    main()
