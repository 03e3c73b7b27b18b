"""`CheckpointCallback`: everything that a run's future depends on, saved each epoch and restored exactly."""

import os
import time
import warnings

from keras_aha.callbacks import checkpoint_contents as contents
from keras_aha.callbacks.run_folder import check_no_pattern, checkpoint_folder, rewind
from keras_aha.callbacks.stateful_callback import stateful_callbacks
from keras_aha.distribution import processes
from keras_aha.distribution.checksums import checksums
from keras_aha.distribution.folder_lock import FolderLock
from keras_aha.files import local_path
from keras_aha.models.internals import count_no_bytes

import keras
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, LatestN


class CheckpointError(ValueError):
    """Checkpoints that a run cannot go on from."""


class CheckpointCallback(keras.callbacks.Callback):
    """Saves what is trained, the optimizer and the state of callbacks, by orbax's `CheckpointManager`.

        checkpoints = CheckpointCallback("runs/demo")
        model.fit(…, epochs=300, initial_epoch=checkpoints.restore(model), callbacks=[…, checkpoints])

    A killed run goes on from its last checkpoint to the same numbers. It finds by itself which callbacks of the `fit`
    have a state: those that are a `StatefulCallback`, in any order. Weights that are not trained come from the preset
    and are not saved. Files are written while training goes on, and a checkpoint counts only when all of it is there.

    Each array is saved with a checksum, and so are the weights that are not trained. If an array that is read has
    another one, the checkpoint is damaged, and the checkpoint before is taken.

    Args:
        log_dir: the run's folder; checkpoints are in its `saved_epochs`. Several processes need one that all see.
        monitor: the log by which the best checkpoint is found, the larger the better, of the epochs that have it. It
            is saved too, so the best stays if the run goes on later.
        keep: how many of the latest stay, beside the best.

    Raises:
        ValueError: if `keep` is less than 1, or orbax would take the path for a pattern (`*`, `?`, `[`).
    """

    def __init__(self, log_dir: str | os.PathLike, monitor: str = "val_accuracy", keep: int = 3):
        super().__init__()
        if keep < 1:
            raise ValueError(f"`keep` must be 1 or more. Received: keep={keep}")
        self.log_dir = local_path(log_dir, "log_dir")
        check_no_pattern(self.log_dir)
        self.monitor = monitor
        self.keep = keep
        self._lock = FolderLock(log_dir)
        self._manager = None
        self._states = []  # `[name, state]` of callbacks, restored and not yet given to them

    # === Saving ===

    def on_train_begin(self, logs=None):
        self._open()
        self._base = contents.base_checksum(self.model)
        self._seconds = None  # that a checkpoint takes
        for callback in stateful_callbacks(self):
            own = next((entry for entry in self._states if entry[0] == type(callback).__name__), None)
            if own is not None:
                self._states.remove(own)
                callback.set_state(own[1])
        self._states = []

    def on_epoch_end(self, epoch, logs=None):
        """Raises OSError if this checkpoint, or the one before, cannot be written."""
        start = time.perf_counter()
        try:
            self._manager.wait_until_finished()  # the one before, long since
            states = [[type(callback).__name__, callback.get_state()] for callback in stateful_callbacks(self)]
            scores = {name: float(logs[name]) for name in [self.monitor] if name in logs}
            if scores:
                self._scores[epoch + 1] = scores[self.monitor]
            self._manager.save(epoch + 1, args=contents.as_saved(self.model, self._base, states, scores))
            if self._seconds is None:  # waits once, to know how long it takes, and early if it cannot be done
                self._manager.wait_until_finished()
                self._seconds = time.perf_counter() - start
        except Exception as error:  # of orbax, tensorstore or the file system
            raise self._failure(error) from error
        logs["checkpoint_seconds"] = self._seconds

    def on_train_end(self, logs=None):
        self.close()

    def close(self):
        """Waits for what is being written, and raises OSError if that cannot be done."""
        if self._manager is not None:
            manager, self._manager = self._manager, None
            try:
                manager.close()
            except Exception as error:
                raise self._failure(error) from error
            finally:
                self._lock.release()

    def _open(self):
        if self._manager is None:
            count_no_bytes()
            self._lock.acquire()
            folder = checkpoint_folder(self.log_dir).absolute()
            self._scores = contents.read_scores(folder, self.monitor)  # by epoch
            policy = AnyPreservationPolicy([LatestN(self.keep), _Best(self._scores)])
            options = ocp.CheckpointManagerOptions(preservation_policy=policy)
            self._manager = ocp.CheckpointManager(folder, options=options, item_names=contents.NAMES)

    def _failure(self, error):
        return OSError(f"A checkpoint cannot be written in {checkpoint_folder(self.log_dir)}: {_in_a_line(error)}")

    # === Restoring ===

    def restore(self, model: keras.Model) -> int:
        """Gives the model and its optimizer the state of the latest checkpoint that is whole.

        Callbacks with a state get theirs when training begins. The run's files are taken back to that epoch, see
        `run_folder.rewind`. Checkpoints that are damaged are removed once another one is restored. Nothing is touched
        in a folder in which no `CheckpointCallback` has begun to train.

        Args:
            model: compiled and built as it was when it was saved, with the same weights that are not trained.

        Returns:
            How many epochs have been trained; 0 if there is no checkpoint.

        Raises:
            CheckpointError: if there are checkpoints, but all are damaged, or they are of another model.
            ValueError: if another process writes the folder, or a file of the run is damaged, see `run_folder.rewind`.
        """
        if not checkpoint_folder(self.log_dir).exists():
            return 0
        self._open()
        base, damages, restored = contents.base_checksum(model), {}, 0
        for epoch in sorted(self._manager.all_steps(), reverse=True):
            damage = self._restore(epoch, model, base)
            if damage is None:
                restored = epoch
                break
            damages[epoch] = _in_a_line(damage)
        if damages and not restored:
            raise CheckpointError(
                f"No checkpoint can be restored; begin a new run. Received: log_dir={str(self.log_dir)!r}, with "
                f"damaged checkpoints after epochs {sorted(damages)}: {damages[max(damages)]}"
            )
        for damaged, reason in damages.items():
            warnings.warn(
                f"The checkpoint after epoch {damaged} is damaged and is removed; the run goes on from epoch "
                f"{restored}. {reason}",
                stacklevel=2,
            )
            self._manager.delete(damaged)
        if processes.is_first():
            rewind(self.log_dir, restored)
        return restored

    def _restore(self, epoch, model, base):
        """Gives the model what is whole, else returns what is wrong; raises CheckpointError for another model's."""
        folder, variables = self._manager.directory / str(epoch), contents.trained_variables(model)
        record, arrays, failure = None, [], None
        try:
            record = contents.read_record(folder)
            self._check_origin(record, model, base)
            arrays = contents.read_arrays(folder, variables)
        except CheckpointError:
            raise
        except Exception as error:
            failure = error
        if processes.any_of(failure is not None):  # if one of several processes cannot read it, none goes on from it
            return failure or "Another process cannot read it."
        pairs = zip(variables, checksums(arrays), record["checksums"], strict=True)
        wrong = [variable.path for variable, own, saved in pairs if own != saved]
        if wrong:
            return f"Its checksums are wrong for {len(wrong)} of {len(variables)} arrays, such as {wrong[0]}."
        for variable, array in zip(variables, arrays, strict=True):
            # What orbax reads is bound to its device, for which JAX would compile every program once more.
            variable.assign(array if len(array.sharding.device_set) > 1 else np.asarray(array))
        self._states = record["callbacks"]
        return None

    def _check_origin(self, record, model, base):
        saved, own = record["variables"], contents.describe(model)
        if saved != own:
            others = sorted({tuple(entry) for entry in saved} ^ {tuple(entry) for entry in own})
            raise CheckpointError(
                "The checkpoints are of another model or optimizer: restore them to one that is built as theirs was. "
                f"Received: log_dir={str(self.log_dir)!r}, with {len(saved)} variables for {len(own)}, of which "
                f"{len(others)} are only here or there, such as {' '.join(others[0]) if others else 'none'}"
            )
        if record["base"] != base:
            raise CheckpointError(
                "The weights that are not trained are not those that the run began with: has the preset changed? "
                f"Received: log_dir={str(self.log_dir)!r}"
            )


class _Best:
    """One of orbax's preservation policies. Its own, `BestN`, knows nothing of what earlier sessions have saved."""

    def __init__(self, scores: dict[int, float]):
        self._scores = scores

    def should_preserve(self, checkpoints, *, context):
        epochs = [checkpoint.step for checkpoint in checkpoints]
        best = contents.best({epoch: self._scores[epoch] for epoch in epochs if epoch in self._scores})
        return [epoch == best for epoch in epochs]


def _in_a_line(error):
    text = " ".join(str(error).split())
    return text if len(text) < 300 else f"{text[:100]} … {text[-180:]}"  # the cause stands last
