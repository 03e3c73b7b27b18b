"""The policy of a run after its last epoch, its best or another one: which are saved, and what they are."""

import os
from pathlib import Path

from keras_aha.callbacks.checkpoint_contents import read_policy
from keras_aha.callbacks.run_folder import CHECKPOINTS
from keras_aha.models.lora import ADAPTERS
from keras_aha.runs.check_files import PRESET, best_epoch, finished_epochs

import keras_hub


def find_epoch(log_dir: str | os.PathLike, epoch: int | str = "last") -> int | None:
    """The epoch of a run after which its policy is asked for, if that is saved.

    Args:
        log_dir: the run's folder.
        epoch: a number, `"last"`, the last one that is saved, or `"best"`, see `best_epoch`.

    Returns:
        Its number; `None` if the folder holds a policy and nothing that tells of which epoch.

    Raises:
        ValueError: if that epoch is not saved; the message names those that are.
    """
    saved, received = _saved(log_dir), f"Received: log_dir={str(log_dir)!r}, epoch={epoch!r}"
    if not saved:
        if epoch == "last" and _has_result(log_dir):
            return None
        raise ValueError(f"No epoch of the run is saved: let it train one or more. {received}")
    number = {"last": max(saved), "best": best_epoch(log_dir)}.get(epoch, epoch)
    if number not in saved:
        what = "No held-out accuracy is known" if number is None else f"Epoch {number} is not saved"
        raise ValueError(f'{what}: `epoch` must be one of {", ".join(map(str, saved))}, "best" or "last". {received}')
    return number


def is_result(log_dir: str | os.PathLike, epoch: int | None) -> bool:
    """Whether the policy after an epoch is what the run has written as its result, and not a checkpoint alone.

    A run that went on and was killed has an older result. So it counts if the run is finished, or has no checkpoints.
    """
    return _has_result(log_dir) and epoch == _epoch_of_result(log_dir)


def load_epoch(policy: keras_hub.models.CausalLM, log_dir: str | os.PathLike, epoch: int) -> None:
    """Gives a policy what a run trained, from the checkpoint after an epoch.

    It raises ValueError if the checkpoint is damaged, or of another model or other adapters.
    """
    variables = policy.trainable_variables
    try:
        arrays = read_policy(Path(log_dir, CHECKPOINTS, str(epoch)), variables)
    except Exception as error:  # of orbax, tensorstore or the file system
        raise ValueError(
            f"The checkpoint after epoch {epoch} cannot be read: choose another `epoch`, of {_saved(log_dir)}. "
            f"Received: log_dir={str(log_dir)!r}, {' '.join(str(error).split())[:200]}"
        ) from error
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _saved(log_dir) -> list[int]:
    """Epochs after which the policy is in a checkpoint, or is the run's result."""
    result = {_epoch_of_result(log_dir)} - {None} if _has_result(log_dir) else set()
    return sorted(result.union(_checkpoints(log_dir)))


def _checkpoints(log_dir) -> list[int]:
    return [int(path.name) for path in Path(log_dir, CHECKPOINTS).glob("*") if path.name.isdecimal()]


def _has_result(log_dir) -> bool:
    return any(Path(log_dir, name).exists() for name in (ADAPTERS, PRESET))


def _epoch_of_result(log_dir) -> int | None:
    """`None` if it is not known, or there are later checkpoints."""
    finished = finished_epochs(log_dir)
    return None if finished is None or finished < max(_checkpoints(log_dir), default=0) else finished
