"""`ProgressCallback`: one progress bar over all epochs."""

import shutil
import sys
import time

import keras

_SKIPPED = "skipped_updates"
_SHOWN = {  # the log, how it is called here, its format on a plain line
    "reward": ("reward", ".3f"),
    "accuracy": ("accuracy", ".3f"),
    "completion_length": ("length", ".1f"),
    "tokens_per_second": ("tokens/s", ".0f"),
    "val_accuracy": ("val_accuracy", ".3f"),
    _SKIPPED: ("skipped", ".2f"),
}
_WIDTH = (
    135  # columns that the bar takes while nothing is skipped; a terminal that is narrower cannot redraw it in place
)


class ProgressCallback(keras.callbacks.Callback):
    """Shows reward, accuracy, completion length, tokens per second and `val_accuracy`, the latest value of each.

    From the first skipped update on it shows the share of the epoch's updates that were skipped, too.

    For `fit(…, verbose=0)`. Where the output is no terminal, or one too narrow for the bar, it prints a line an epoch.
    So it does in a notebook, where the rollouts' bar, which comes in between, would leave pieces of this one.
    """

    def on_train_begin(self, logs=None):
        epochs = self.params["epochs"]
        self._start = time.perf_counter()
        self._values = {}
        self._bar = None
        if _can_redraw():
            names = [name for name, _ in _SHOWN.values()]
            self._bar = keras.utils.Progbar(epochs, width=10, stateful_metrics=names, unit_name="epoch")

    def on_epoch_end(self, epoch, logs=None):
        skips = _SKIPPED in self._values or logs.get(_SKIPPED)
        self._values |= {name: float(logs[name]) for name in _SHOWN if name in logs and (skips or name != _SKIPPED)}
        if self._bar:
            self._bar.update(epoch + 1, [(_SHOWN[name][0], value) for name, value in self._values.items()])
        else:
            epochs = self.params["epochs"]
            parts = [f"{epoch + 1:{len(str(epochs))}d}/{epochs}  {time.perf_counter() - self._start:5.0f} s"]
            parts += [f"{_SHOWN[name][0]} {value:{_SHOWN[name][1]}}" for name, value in self._values.items()]
            print(*parts, sep="  ", flush=True)


def _can_redraw() -> bool:
    return sys.stdout.isatty() and shutil.get_terminal_size().columns >= _WIDTH
