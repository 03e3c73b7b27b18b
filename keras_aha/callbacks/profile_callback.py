"""`ProfileCallback`: a trace of one epoch's rollout and update."""

import os

from keras_aha.files import local_path

import jax
import keras


class ProfileCallback(keras.callbacks.Callback):
    """Traces the second epoch that `fit` trains, as the first one compiles, from its rollout to its last update.

    TensorBoard shows the trace with the plugin xprof; https://docs.jax.dev/en/latest/profiling.html has other ways to
    look at it. Keras's `TensorBoard(profile_batch=…)` traces updates only, and on JAX needs Python 3.12.

    Args:
        log_dir: the run's folder; the trace is in `profile`, for TensorBoard.
    """

    def __init__(self, log_dir: str | os.PathLike):
        super().__init__()
        self._folder = local_path(log_dir, "log_dir") / "profile"

    def on_train_begin(self, logs=None):
        self._epochs = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epochs += 1
        if self._epochs == 2:
            jax.profiler.start_trace(str(self._folder))

    def on_epoch_end(self, epoch, logs=None):
        if self._epochs == 2:
            jax.profiler.stop_trace()
