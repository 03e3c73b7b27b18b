"""`fit.py` in a process of its own that waits as a checkpoint is written, and says so to whoever kills it.

python tests/run_that_waits.py [flags of fit.py]
"""

import os
import sys
import threading
import time
from pathlib import Path

from keras_aha.callbacks.rollout_callback import RolloutCallback
from keras_aha.training.grpo_model import GRPOModel

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import fit  # noqa: E402

HERE = "it waits"


def wait(*_):
    print(HERE, flush=True)
    time.sleep(600)


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


if __name__ == "__main__":
    in_checkpoint()
    sys.exit(fit.main(sys.argv[1:]))
