"""`InterruptCallback`: SIGTERM and Ctrl-C end a run between epochs, not in the middle of one."""

import signal
import threading
import warnings

from keras_aha.distribution import processes

import jax
import keras


class InterruptCallback(keras.callbacks.Callback):
    """Ends training without a loss when the process is asked to stop by SIGTERM or SIGINT (Ctrl-C).

    From the first optimizer step on, training goes on until the epoch's end and stops there. During a rollout nothing
    has been learned since the last epoch, so it ends at once: `fit` raises `KeyboardInterrupt`. So does a second
    signal. With several processes training stops at the end of the epoch in which any of them is asked.

    Python lets only the main thread choose what a signal does. If `fit` is called in another one, as behind a button or
    in a worker of Ray, signals do what they did before. Call `release` if `fit` ends by an error.

    Attributes:
        signal: the number of the signal, or `None`.
    """

    def __init__(self):
        super().__init__()
        self.signal = None
        self._before = {}  # signal → handler

    def on_train_begin(self, logs=None):
        self.signal = None
        self._nothing_to_lose = True
        if threading.current_thread() is not threading.main_thread():
            warnings.warn(
                "Training runs in a thread, where Python takes no signals: Ctrl-C and SIGTERM do not save first, and "
                "rewards have no time limit (rollouts.reward_seconds).",
                stacklevel=2,
            )
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            # Ctrl-C is ignored in a shell's background jobs; None is a handler that Python could not put back.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._before[number] = signal.signal(number, self._handle)

    def on_train_batch_begin(self, batch, logs=None):
        self._nothing_to_lose = False

    def on_epoch_end(self, epoch, logs=None):
        self._nothing_to_lose = True
        if processes.any_of(self.signal is not None):
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        self.release()

    def release(self):
        """Gives the signals back to whom they belonged."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number, frame):
        again = self.signal is not None
        self.signal = number
        if again or (self._nothing_to_lose and jax.process_count() == 1):
            self.release()
            raise KeyboardInterrupt(number)
        print("\nStopping at the end of this epoch; once more stops at once.", flush=True)
