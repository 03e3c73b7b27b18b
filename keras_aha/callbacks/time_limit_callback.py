"""`TimeLimitCallback`: a run ends before its session does."""

import time

from keras_aha.callbacks.stateful_callback import StatefulCallback
from keras_aha.distribution import processes

_MARGIN = 1.2  # epochs grow longer as completions do


class TimeLimitCallback(StatefulCallback):
    """Stops training if another epoch would not end in time, a held-out evaluation and saving included.

    An epoch is taken to last 1.2 times as long as the longest so far. The first one compiles, and counts only until
    there is another. The same holds for an evaluation, by the log `evaluation_seconds`; each epoch is taken to have
    one. A checkpoint takes the log `checkpoint_seconds`. With several processes the first one's clock counts. Keras
    trains an epoch before it can be stopped: ask `is_over` before `fit`.

    Args:
        hours: from `start` on.
        start: when the session began, by `time.time()`; `None` is now.

    Attributes:
        evaluation_seconds: how long an evaluation is taken to last until there is one; to be set by whoever knows.
        reached: whether it has stopped training, or `is_over` returned true.

    Raises:
        ValueError: if `hours` is not positive.
    """

    def __init__(self, hours: float, start: float | None = None):
        super().__init__()
        if not hours > 0:
            raise ValueError(f"`hours` must be above 0. Received: hours={hours}")
        self.evaluation_seconds = 0.0
        self.reached = False
        self._end = (time.time() if start is None else start) + 3600 * hours

    def is_over(self) -> bool:
        """Whether the time is over; all processes must call it, as it waits for them."""
        self.reached = processes.any_of(processes.is_first() and time.time() > self._end)
        return self.reached

    def get_state(self) -> dict:
        return {"evaluation_seconds": self.evaluation_seconds}

    def set_state(self, state: dict):
        self.evaluation_seconds = max(self.evaluation_seconds, state["evaluation_seconds"])

    def on_train_begin(self, logs=None):
        self._epochs, self._evaluations = [], []  # seconds of each, the ones without the others
        self._last = time.time()

    def on_epoch_end(self, epoch, logs=None):
        now = time.time()
        evaluation = logs.get("evaluation_seconds", 0.0)
        self._epochs.append(now - self._last - evaluation)
        self._last = now
        if evaluation:
            self._evaluations.append(evaluation)
            self.evaluation_seconds = max(self._evaluations)
        longest = max(self._epochs[1:] or self._epochs)
        needed = _MARGIN * (longest + self.evaluation_seconds + logs.get("checkpoint_seconds", 0.0))
        last = epoch + 1 == self.params["epochs"]
        self.reached = processes.any_of(processes.is_first() and not last and now + needed > self._end)
        if self.reached:
            self.model.stop_training = True
