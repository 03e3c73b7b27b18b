"""May a folder be written? It is tried: permissions do not tell it of a superuser's folders, nor of a full disk."""

import os
import tempfile
from pathlib import Path

from keras_aha.distribution.folder_lock import LOCK
from keras_aha.files import local_path


def check_new_folder(path: str | os.PathLike, name: str) -> None:
    """Raises ValueError unless `path` can be made, or is an empty folder; `name` is the argument's."""
    path = local_path(path, name)
    received = f"Received: {name}={str(path)!r}"
    if os.path.lexists(path):
        if not path.is_dir() or any(entry.name != LOCK for entry in path.iterdir()):
            raise ValueError(f"{path} is there already, and is kept: choose another {name}. {received}")
        return check_writable(path, name)
    parent = next(folder for folder in path.absolute().parents if os.path.exists(folder))
    if not takes_files(parent):
        raise ValueError(f"{path} cannot be made, as {parent} is no folder to write to. {received}")
    try:
        with tempfile.TemporaryDirectory(dir=parent) as trial:  # of its names, and of longer paths inside it
            Path(trial, path.absolute().relative_to(parent), "x" * 100, "x" * 100).mkdir(parents=True)
    except OSError as error:
        raise ValueError(f"{path} cannot be made: {error.strerror}. {received}") from error


def check_writable(path: str | os.PathLike, name: str) -> None:
    """Raises ValueError if nothing can be written into a folder that is there."""
    if not takes_files(path):
        raise ValueError(f"Nothing can be written into {path}. Received: {name}={str(path)!r}")


def takes_files(folder: str | os.PathLike) -> bool:
    """Whether a file can be made in a folder; none is left."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            return True
    except OSError:
        return False
