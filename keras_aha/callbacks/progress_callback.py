"""`ProgressCallback`: one progress bar over all epochs."""

import shutil
import sys
import time
from collections.abc import Mapping

import keras

_SHOWN = {  # the log, how it is called here, its format on a plain line
    "reward": ("reward", ".3f"),
    "accuracy": ("accuracy", ".3f"),
    "completion_length": ("length", ".1f"),
    "tokens_per_second": ("tokens/s", ".0f"),
    "val_accuracy": ("val_accuracy", ".3f"),
    "skipped_updates": ("skipped", ".2f"),
}
_WIDTH = 135  # columns of the bar while nothing is skipped; a narrower terminal cannot redraw it in place


class ProgressCallback(keras.callbacks.Callback):
    """Shows reward, accuracy, completion length and tokens per second, for `fit(…, verbose=0)`.

    `val_accuracy` is shown in epochs that measured it, and the share of skipped updates in epochs that had some. If the
    output is no terminal, or one too narrow for the bar, it prints a line an epoch. So it does in a notebook, where the
    rollouts' bar, which comes in between, would leave pieces of this one. The bar has the latest value of each.

    Args:
        shown: what is shown instead: the log → how it is called, and its format on a line.
    """

    def __init__(self, shown: Mapping[str, tuple[str, str]] | None = None):
        super().__init__()
        self.shown = shown or _SHOWN

    def on_train_begin(self, logs=None):
        epochs = self.params["epochs"]
        self._start = time.perf_counter()
        self._bar = None
        if sys.stdout.isatty() and shutil.get_terminal_size().columns >= _WIDTH:
            names = [name for name, _ in self.shown.values()]
            self._bar = keras.utils.Progbar(epochs, width=10, stateful_metrics=names, unit_name="epoch")

    def on_epoch_end(self, epoch, logs=None):
        values = {name: float(logs[name]) for name in self.shown if name in logs}
        if not values.get("skipped_updates"):
            values.pop("skipped_updates", None)
        if self._bar:
            self._bar.update(epoch + 1, [(self.shown[name][0], value) for name, value in values.items()])
        else:
            epochs = self.params["epochs"]
            parts = [f"{epoch + 1:{len(str(epochs))}d}/{epochs}  {time.perf_counter() - self._start:5.0f} s"]
            parts += [f"{self.shown[name][0]} {value:{self.shown[name][1]}}" for name, value in values.items()]
            print(*parts, sep="  ", flush=True)
