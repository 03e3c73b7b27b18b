"""`CheckpointCallback`: everything that a run's future depends on, saved each epoch and restored exactly."""

import hashlib
import json
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

from keras_aha.callbacks.run_folder import CHECKPOINTS, rewind
from keras_aha.distribution import processes
from keras_aha.distribution.checksums import checksums, combined

import jax
import keras
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

_ARRAYS, _RECORD = "arrays", "record"


class CheckpointError(ValueError):
    """Checkpoints that a run cannot go on from."""


class CheckpointCallback(keras.callbacks.Callback):
    """Saves what is trained, the optimizer and the callbacks that remember something, by orbax's `CheckpointManager`.

        checkpoints = CheckpointCallback("runs/demo")
        model.fit(…, epochs=300, initial_epoch=checkpoints.restore(model), callbacks=[…, checkpoints])

    A killed run goes on from its last checkpoint to the same numbers: rollouts are drawn by the seed and the
    optimizer's iterations alone. Weights that are not trained come from the preset and are not saved. Files are written
    beside the training, and a checkpoint counts only when all of it is there. Put it after callbacks that write files.

    Each array is saved with a checksum, and so are the weights that are not trained. What does not have it when it is
    restored is damaged: then the checkpoint before is taken.

    Args:
        log_dir: the run's folder; checkpoints are in its `checkpoints`. Several processes need one that all see.
        monitor: the log by which the best checkpoint is found, the larger the better, of the epochs that have it.
        keep: how many of the latest are kept, beside the best.
        remembering: name → callback with `get_state() -> dict` and `set_state(dict)`, of what JSON holds.

    Raises:
        ValueError: if `keep` is less than 1.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike,
        monitor: str = "val_accuracy",
        keep: int = 3,
        remembering: Mapping[str, keras.callbacks.Callback] | None = None,
    ):
        super().__init__()
        if keep < 1:
            raise ValueError(f"keep must be 1 or more. Received: keep={keep}")
        self.log_dir = Path(log_dir)
        self.monitor = monitor
        self.keep = keep
        self.remembering = dict(remembering or {})
        self._manager = None
        self._seconds = None  # that a checkpoint takes

    # === Saving ===

    def on_train_begin(self, logs=None):
        self._open()
        self._base = _base_checksum(self.model)
        self._seconds = None

    def on_epoch_end(self, epoch, logs=None):
        """Raises OSError if this checkpoint, or the one before, cannot be written."""
        start = time.perf_counter()
        try:
            self._manager.wait_until_finished()  # the one before, long since
            self._save(epoch + 1, logs)
            if self._seconds is None:  # at once, so that it is known how long it takes, and early if it cannot be done
                self._manager.wait_until_finished()
                self._seconds = time.perf_counter() - start
        except Exception as error:  # of orbax, tensorstore or the file system
            raise self._failure(error) from error
        logs["checkpoint_seconds"] = self._seconds

    def on_train_end(self, logs=None):
        """Waits until all is written, and raises OSError if that cannot be done."""
        self.close()

    def close(self):
        """Waits for what is being written, and raises OSError if that cannot be done."""
        if self._manager is not None:
            manager, self._manager = self._manager, None
            try:
                manager.close()
            except Exception as error:
                raise self._failure(error) from error

    def _save(self, epoch, logs):
        variables = _trained(self.model)
        record = {
            "variables": _described(self.model),
            "checksums": checksums([variable.value for variable in variables]),
            "base": self._base,
            "callbacks": {name: callback.get_state() for name, callback in self.remembering.items()},
        }
        self._manager.save(
            epoch,
            args=ocp.args.Composite(
                **{_ARRAYS: ocp.args.StandardSave(_named(variables)), _RECORD: ocp.args.JsonSave(_sealed(record))}
            ),
            metrics={self.monitor: float(logs[self.monitor])} if self.monitor in logs else None,
        )

    # === Restoring ===

    def restore(self, model: keras.Model) -> int:
        """Gives the model, its optimizer and the callbacks the state of the latest checkpoint that is whole.

        The run's files are taken back to it (see `run_files.rewind`); checkpoints that are damaged are removed once
        another is restored.

        Args:
            model: compiled and built as it was when it was saved, with the same weights that are not trained.

        Returns:
            How many epochs have been trained; 0 where there is no checkpoint.

        Raises:
            CheckpointError: if checkpoints are there, but all are damaged, or they are of another model.
            ValueError: if a file of the run is damaged, see `run_files.rewind`.
        """
        self._open()
        base, damaged = _base_checksum(model), {}
        for epoch in sorted(self._manager.all_steps(), reverse=True):
            try:
                self._restore(epoch, model, base)
            except _Damaged as error:
                damaged[epoch] = str(error)
                continue
            for later, reason in damaged.items():
                warnings.warn(
                    f"The checkpoint after epoch {later} is damaged and is removed; the run goes on from epoch "
                    f"{epoch}. {reason}",
                    stacklevel=2,
                )
                self._manager.delete(later)
            self._rewind(epoch)
            return epoch
        if damaged:
            raise CheckpointError(
                f"No checkpoint can be restored; begin a new run. Received: log_dir={str(self.log_dir)!r}, with "
                f"damaged checkpoints after epochs {sorted(damaged)}: {damaged[max(damaged)]}"
            )
        self._rewind(0)
        return 0

    def _open(self):
        if self._manager is None:
            best = BestN(
                get_metric_fn=lambda metrics: metrics[self.monitor], n=1, keep_checkpoints_without_metrics=False
            )
            options = ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy([LatestN(self.keep), best])
            )
            self._manager = ocp.CheckpointManager(
                (self.log_dir / CHECKPOINTS).absolute(), options=options, item_names=(_ARRAYS, _RECORD)
            )

    def _restore(self, epoch, model, base):
        """Raises `_Damaged`, or CheckpointError for another model's; only what is whole is given to the model."""
        variables = _trained(model)
        record, arrays, error = None, [], None
        try:
            record = self._read_record(epoch)
            self._check_origin(record, model, base)
            arrays = self._read_arrays(epoch, variables)
        except CheckpointError:
            raise
        except Exception as caught:
            error = caught
        if processes.any_of(error is not None):  # what one of several cannot read none of them goes on from
            raise _Damaged(error or "Another process cannot read it.") from error
        wrong = [
            variable.path
            for variable, found, saved in zip(variables, checksums(arrays), record["checksums"], strict=True)
            if found != saved
        ]
        if wrong:
            raise _Damaged(f"Its checksums are wrong for {len(wrong)} of {len(variables)} arrays, such as {wrong[0]}.")
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
        for name, state in record["callbacks"].items():
            if name in self.remembering:
                self.remembering[name].set_state(state)

    def _read_record(self, epoch):
        sealed = self._read(epoch, _RECORD, ocp.JsonCheckpointHandler, ocp.args.JsonRestore())
        if sealed != _sealed(sealed["record"]):
            raise ValueError("Its record is not what was saved.")
        return sealed["record"]

    def _check_origin(self, record, model, base):
        if record["variables"] != _described(model):
            raise CheckpointError(self._another(record["variables"], _described(model)))
        if record["base"] != base:
            raise CheckpointError(
                "The weights that are not trained are not those that the run began with: has the preset changed? "
                f"Received: log_dir={str(self.log_dir)!r}"
            )

    def _read_arrays(self, epoch, variables):
        shapes = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for name, x in _named(variables).items()
        }
        arrays = self._read(epoch, _ARRAYS, ocp.StandardCheckpointHandler, ocp.args.StandardRestore(shapes))
        return [arrays[name] for name in shapes]

    def _read(self, epoch, name, handler, args):
        # Alone, and not by the manager, which would wait for the other processes, and for ever if one of them fails.
        own = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})
        with ocp.Checkpointer(handler(multiprocessing_options=alone), multiprocessing_options=alone) as reader:
            return reader.restore(self._manager.directory / str(epoch) / name, args=args)

    def _rewind(self, epochs):
        if processes.is_first():
            rewind(self.log_dir, epochs)

    def _another(self, saved, own):
        others = sorted({tuple(entry) for entry in saved} ^ {tuple(entry) for entry in own})
        return (
            "The checkpoints are of another model or optimizer: restore them to one that is built as theirs was. "
            f"Received: log_dir={str(self.log_dir)!r}, with {len(saved)} variables for {len(own)}, of which "
            f"{len(others)} are only here or there, such as {' '.join(others[0]) if others else 'none'}"
        )

    def _failure(self, error):
        return OSError(f"A checkpoint cannot be written in {self.log_dir / CHECKPOINTS}: {_in_a_line(error)}")


class _Damaged(Exception):
    """A checkpoint that is not what was saved."""

    def __init__(self, reason):
        super().__init__(_in_a_line(reason))


def _in_a_line(error):
    text = " ".join(str(error).split())
    return text if len(text) < 300 else f"{text[:100]} … {text[-180:]}"  # the cause stands last


def _trained(model):
    return [*model.trainable_variables, *model.optimizer.variables]


def _sealed(record):
    """With a hash, so that a record that has changed is known."""
    return {"record": record, "sha256": hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()}


def _described(model):
    """Name, shape and dtype of each; without the number that Keras adds to an optimizer's name."""
    kind = type(model.optimizer).__name__
    names = [variable.path for variable in model.trainable_variables]
    names += [f"{kind}/{variable.path.partition('/')[2]}" for variable in model.optimizer.variables]
    variables = _trained(model)
    return [[name, str(tuple(v.shape)), v.dtype] for name, v in zip(names, variables, strict=True)]


def _named(variables):
    return {f"{i:05d}": variable.value for i, variable in enumerate(variables)}


def _base_checksum(model):
    return combined(checksums([variable.value for variable in model.non_trainable_weights]))
