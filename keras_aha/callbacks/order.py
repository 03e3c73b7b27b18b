"""`in_order`: sorts callbacks so that each finds what the others write."""

from collections.abc import Iterable

from keras_aha.callbacks.checkpoint_callback import CheckpointCallback
from keras_aha.callbacks.completions_callback import CompletionsCallback
from keras_aha.callbacks.doctor_callback import DoctorCallback
from keras_aha.callbacks.evaluate_callback import EvaluateCallback
from keras_aha.callbacks.guard_callback import GuardCallback
from keras_aha.callbacks.history_callback import HistoryCallback
from keras_aha.callbacks.interrupt_callback import InterruptCallback
from keras_aha.callbacks.profile_callback import ProfileCallback
from keras_aha.callbacks.progress_callback import ProgressCallback
from keras_aha.callbacks.rollout_callback import RolloutCallback
from keras_aha.callbacks.time_limit_callback import TimeLimitCallback
from keras_aha.callbacks.utilization_callback import UtilizationCallback

import keras

# At an epoch's beginning the trace starts before the rollout, and the clock of the updates after it. At its end logs
# are made first, then read, then the epoch is saved, and then the run may stop.
_ORDER = (
    *(ProfileCallback, RolloutCallback, UtilizationCallback, GuardCallback, EvaluateCallback),
    None,  # those that keras-aha does not know
    CompletionsCallback,
    keras.callbacks.TensorBoard,
    HistoryCallback,
    ProgressCallback,
    DoctorCallback,  # after what prints a line an epoch, so that its words stand below that line
    CheckpointCallback,
    TimeLimitCallback,
    InterruptCallback,
)


def in_order(callbacks: Iterable[keras.callbacks.Callback]) -> list[keras.callbacks.Callback]:
    """Returns callbacks in the order in which `fit` must call them.

        model.fit(rollouts.dataset, callbacks=aha.in_order([checkpoints, doctor, evaluation, rollouts, mine]), …)

    Args:
        callbacks: any callbacks, in any order. Those that keras-aha does not know stay in their own order, after those
            that make logs and before those that read them.
    """

    def place(callback) -> int:
        known = (i for i, kind in enumerate(_ORDER) if kind and isinstance(callback, kind))
        return next(known, _ORDER.index(None))

    return sorted(callbacks, key=place)
