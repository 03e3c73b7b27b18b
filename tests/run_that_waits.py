"""`fit.py` in a process of its own that comes to a phase of a run, says so and waits there, for whoever ends it.

python tests/run_that_waits.py PHASE [flags of fit.py]
"""

import os
import sys
import threading
import time
from pathlib import Path

from keras_aha.callbacks.rollout_callback import RolloutCallback
from keras_aha.runs.experiment import Experiment
from keras_aha.training.grpo_model import GRPOModel

import jax

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import fit  # noqa: E402

HERE = "the phase has begun"


def wait(*_):
    print(HERE, flush=True)
    time.sleep(600)


def in_evaluation():
    """The one before training."""
    Experiment.evaluate = wait


def in_update():
    """Within the compiled step of the second epoch."""
    step = GRPOModel.train_step
    calls = iter([lambda: None, wait])

    def train_step(self, state, data):
        jax.debug.callback(lambda: next(calls)())
        return step(self, state, data)

    GRPOModel.train_step = train_step


def in_checkpoint():
    """All of the second one is written, though not by its name, beside the third rollout, which has not been scored."""
    rename, begin, generate = os.rename, RolloutCallback.on_epoch_begin, GRPOModel.generate
    epochs, written = [], threading.Event()

    def wait_before_rename(source, *args, **settings):
        if "orbax-checkpoint-tmp" in Path(source).name and len(epochs) >= 2:
            written.set()
            time.sleep(600)
        rename(source, *args, **settings)

    def on_epoch_begin(self, epoch, logs=None):
        epochs.append(epoch)
        begin(self, epoch, logs)

    def generate_and_wait(self, *args, **settings):
        completions = generate(self, *args, **settings)
        if len(epochs) == 3:
            written.wait()
            wait()
        return completions

    os.rename, RolloutCallback.on_epoch_begin, GRPOModel.generate = (
        wait_before_rename,
        on_epoch_begin,
        generate_and_wait,
    )


PHASES = {"evaluation": in_evaluation, "update": in_update, "checkpoint": in_checkpoint}

if __name__ == "__main__":
    PHASES[sys.argv[1]]()
    sys.exit(fit.main(sys.argv[2:]))
