"""The policy of a run after its last epoch, its best or another one: which are saved, and what they are."""

import os
from pathlib import Path

from keras_aha.callbacks.checkpoint_callback import CheckpointError
from keras_aha.callbacks.checkpoint_contents import read_policy
from keras_aha.callbacks.run_folder import checkpoint_folder
from keras_aha.models.lora import ADAPTERS
from keras_aha.runs.check_files import PRESET, best_epoch, checkpoints, finished_epochs

import keras_hub


def find_epoch(log_dir: str | os.PathLike, epoch: int | str = "last") -> int | None:
    """The epoch of a run after which its policy is asked for, if that is saved.

    Args:
        log_dir: the run's folder.
        epoch: a number, `"last"`, the last one that is saved, or `"best"`, see `best_epoch`.

    Returns:
        Its number; `None` if the folder holds a policy alone, which does not tell of which epoch it is.

    Raises:
        ValueError: if that epoch is not saved; the message names those that are.
    """
    saved, received = checkpoints(log_dir), f"Received: log_dir={str(log_dir)!r}, epoch={epoch!r}"
    if not saved and any(
        Path(log_dir, name).exists() for name in (ADAPTERS, PRESET)
    ):  # else it may be of an older stop
        saved = [finished_epochs(log_dir)]
    if not saved:
        raise ValueError(f"No epoch of the run is saved: let it train one or more. {received}")
    number = saved[-1] if epoch == "last" else epoch
    if epoch == "best":
        number = best_epoch(log_dir)
    if number not in saved:
        what = "No held-out accuracy is known" if number is None else f"Epoch {number!r} is not saved"
        raise ValueError(f'{what}: `epoch` must be one of {", ".join(map(str, saved))}, "best" or "last". {received}')
    return number


def load_epoch(policy: keras_hub.models.CausalLM, log_dir: str | os.PathLike, epoch: int) -> None:
    """Gives a policy what a run trained up to an epoch; CheckpointError if it is damaged, or of another model."""
    variables = policy.trainable_variables
    try:
        arrays = read_policy(checkpoint_folder(log_dir).absolute() / str(epoch), variables)
    except Exception as error:  # of orbax, tensorstore or the file system
        raise CheckpointError(
            f"The checkpoint after epoch {epoch} cannot be read: choose another `epoch`, of {checkpoints(log_dir)}. "
            f"Received: log_dir={str(log_dir)!r}, {' '.join(str(error).split())[:200]}"
        ) from error
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
