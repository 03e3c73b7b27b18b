"""`TensorBoardCallback`: Keras's, with what a rollout is made of."""

import collections
import os
from collections.abc import Mapping
from typing import Any

from keras_aha.callbacks.flushed_tensorboard import FlushedTensorBoard
from keras_aha.callbacks.stateful_callback import StatefulCallback
from keras_aha.names import unicode

import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams


class TensorBoardCallback(StatefulCallback, FlushedTensorBoard):
    """A `FlushedTensorBoard` for a `GRPOModel`.

    Beside the logs it writes of each epoch's rollout, in the run `train`: histograms of `completion_length` (tokens)
    and `reward`, without rewards that failed; and of each verdict that a completion has had so far the share of the
    completions, `verdict/<name>`. Hyper-parameters stand in the tab HPARAMS, in a run of their own.

    Args:
        log_dir: the run's folder.
        hyper_parameters: name → number, bool or text; anything else is shown as text.
        **settings: other arguments of `keras.callbacks.TensorBoard`.
    """

    def __init__(self, log_dir: str | os.PathLike, hyper_parameters: Mapping[str, Any] | None = None, **settings):
        super().__init__(os.path.expanduser(log_dir), **settings)  # TensorFlow writes to buckets, too
        self.hyper_parameters = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in (hyper_parameters or {}).items()
        }
        self._verdicts = set()  # that a completion has had

    def get_state(self) -> dict:
        return {"verdicts": sorted(self._verdicts)}

    def set_state(self, state: dict) -> None:
        self._verdicts = set(state["verdicts"])

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        if epoch == 0 and self.hyper_parameters:
            with self.summary.create_file_writer(os.path.join(self.log_dir, "hyper_parameters")).as_default():
                hparams.hparams(self.hyper_parameters)

    def write_events(self, epoch, logs):
        super().write_events(epoch, logs)
        rollout = self.model.rollout
        verdicts = collections.Counter(score.verdict for score in rollout.scores)
        self._verdicts |= set(verdicts)
        with self._train_writer.as_default():
            tf.summary.histogram("completion_length", rollout.lengths, epoch)
            tf.summary.histogram("reward", rollout.rewards[~np.isnan(rollout.rewards)], epoch)
            for verdict in sorted(self._verdicts):
                tf.summary.scalar(f"verdict/{unicode(verdict)}", verdicts[verdict] / len(rollout.scores), epoch)
