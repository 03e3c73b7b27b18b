"""What a checkpoint holds: the arrays of what is trained, and a record that tells whether they are what was saved."""

import contextlib
import hashlib
import json
import math
from pathlib import Path

from keras_aha.distribution.checksums import checksums, combined

import jax
import keras
import numpy as np
import orbax.checkpoint as ocp

NAMES = ("arrays", "record")  # the folders of a checkpoint


def trained_variables(model: keras.Model) -> list:
    """The variables that are saved; all others come from the preset."""
    return [*model.trainable_variables, *model.optimizer.variables]


def base_checksum(model: keras.Model) -> int:
    """One number for all weights that are not trained."""
    return combined(checksums([variable.value for variable in model.non_trainable_weights]))


def describe(model: keras.Model) -> list[list[str]]:
    """Name, shape and dtype of each trained variable, without the number that Keras adds to an optimizer's name."""
    kind = type(model.optimizer).__name__
    names = [variable.path for variable in model.trainable_variables]
    names += [f"{kind}/{variable.path.partition('/')[2]}" for variable in model.optimizer.variables]
    return [[name, str(tuple(v.shape)), v.dtype] for name, v in zip(names, trained_variables(model), strict=True)]


def as_saved(model: keras.Model, base: int, states: list, scores: dict[str, float]) -> ocp.args.Composite:
    """The contents for orbax's `CheckpointManager.save`: of a compiled model, its `base_checksum`, `[name, state]` of
    each callback with a state, as JSON can hold them, and the logs by which the best epoch may be found."""
    arrays = [variable.value for variable in trained_variables(model)]
    record = {"variables": describe(model), "checksums": checksums(arrays), "base": base, "callbacks": states}
    record["scores"] = scores
    return ocp.args.Composite(arrays=ocp.args.StandardSave(_named(arrays)), record=ocp.args.JsonSave(_sealed(record)))


def read_record(folder: Path) -> dict:
    """The record of the checkpoint in a folder; raises an error of orbax or ValueError if it is not what was saved."""
    sealed = _read(folder / "record", ocp.JsonCheckpointHandler, ocp.args.JsonRestore())
    if sealed != _sealed(sealed["record"]):
        raise ValueError("Its record is not what was saved.")
    return sealed["record"]


def read_scores(folder: Path, monitor: str) -> dict[int, float]:
    """A log of each epoch that has a checkpoint in `folder` which can be read and has that log."""
    scores = {}
    for epoch in (path for path in folder.glob("*") if path.name.isdecimal()):
        with contextlib.suppress(Exception):  # of orbax, or it is an older run's
            scores[int(epoch.name)] = read_record(epoch)["scores"][monitor]
    return scores


def best(scores: dict[int, float]) -> int | None:
    """The epoch with the largest number, the later one of equals; `None` if there is none."""
    known = [(score, epoch) for epoch, score in scores.items() if not math.isnan(score)]
    return max(known)[1] if known else None


def read_arrays(folder: Path, variables: list) -> list[jax.Array]:
    """An array for each variable, laid out as the variable is; raises an error of orbax if one cannot be read."""
    values = _named([variable.value for variable in variables])
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for name, x in values.items()}
    arrays = _read(folder / "arrays", ocp.StandardCheckpointHandler, ocp.args.StandardRestore(shapes))
    return [arrays[name] for name in shapes]


def read_policy(folder: Path, variables: list) -> list[np.ndarray]:
    """An array for each of a policy's trainable `variables`, as it was saved; nothing of the optimizer is read.

    It raises ValueError if they are other variables, or an array is damaged, and errors of orbax.
    """
    record, count = read_record(folder), len(variables)
    saved = record["variables"]
    own = [[variable.path, str(tuple(variable.shape))] for variable in variables]
    if [entry[:2] for entry in saved[:count]] != own or not saved[count][0].endswith("/iteration"):  # an optimizer's
        raise ValueError("It is of another model, or of adapters of another rank or on other layers.")
    shapes = _named([jax.ShapeDtypeStruct(v.shape, dtype) for v, (*_, dtype) in zip(variables, saved, strict=False)])
    as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in shapes}
    args = ocp.args.PyTreeRestore(shapes, restore_args=as_numpy, partial_restore=True)
    arrays = list(_read(folder / "arrays", ocp.PyTreeCheckpointHandler, args).values())
    if [checksums([array])[0] for array in arrays] != record["checksums"][:count]:
        raise ValueError("Its checksums are wrong.")
    return arrays


def _named(arrays):
    return {f"{i:05d}": array for i, array in enumerate(arrays)}


def _sealed(record):
    """With a hash, so that a changed record is noticed."""
    return {"record": record, "sha256": hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()}


def _read(folder, handler, args):
    # Each process alone. The manager would wait for the other processes, and for ever if one of them fails.
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})
    with ocp.Checkpointer(handler(multiprocessing_options=alone), multiprocessing_options=alone) as reader:
        return reader.restore(folder, args=args)
