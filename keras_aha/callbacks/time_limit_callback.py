"""`TimeLimitCallback`: a run ends before its session does."""

import time

from keras_aha import processes

import keras

_MARGIN = 1.2  # epochs grow longer as completions do


class TimeLimitCallback(keras.callbacks.Callback):
    """Stops training where another epoch would not end in time, saving included.

    An epoch is taken to last 1.2 times as long as the longest so far, held-out evaluation included; the first, which
    compiles, counts only until there is another. A checkpoint takes the log `checkpoint_seconds`, where there is one.
    With several processes the first one's clock counts. Put it last, after what is saved at an epoch's end.

    Args:
        hours: from `start` on.
        start: when the session began, by `time.time()`; `None` is now.

    Attributes:
        reached: whether it has stopped training.

    Raises:
        ValueError: if `hours` is not positive.
    """

    def __init__(self, hours: float, start: float | None = None):
        super().__init__()
        if not hours > 0:
            raise ValueError(f"hours must be above 0. Received: hours={hours}")
        self.hours = hours
        self.reached = False
        self._end = (time.time() if start is None else start) + 3600 * hours

    def on_train_begin(self, logs=None):
        self.reached = False
        self._seconds = []  # of each epoch
        self._last = time.time()

    def on_epoch_end(self, epoch, logs=None):
        now = time.time()
        self._seconds.append(now - self._last)
        self._last = now
        longest = max(self._seconds[1:] or self._seconds)
        needed = _MARGIN * (longest + logs.get("checkpoint_seconds", 0.0))
        last = epoch + 1 == self.params["epochs"]
        if processes.any_of(processes.is_first() and not last and now + needed > self._end):
            self.reached = True
            self.model.stop_training = True
