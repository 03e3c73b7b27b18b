"""`FolderLock`: one process at a time writes a folder."""

import contextlib
import datetime
import fcntl
import os
import socket
import time
import warnings
import weakref
from pathlib import Path

LOCK = ".lock"
SECONDS = 20  # after which all hosts see a file that one of them has written
_holders = weakref.WeakValueDictionary()  # by path, of this process: each lives as long as a `FolderLock` has it


class FolderLock:
    """A lock of a folder, held from `acquire` to `release`, or until the process ends, however it ends.

        with FolderLock("runs/demo"):
            …

    The kernel holds it for the process, on a small file, on NFS too: after a kill nothing must be cleared away. One
    process may take it several times, as a notebook's cell does that was interrupted and is run again. Of several
    processes that train together the first one holds it, and the others find out whether they see the same folder.

    Args:
        folder: made if it is missing, and removed again if nothing is written into it.
        name: what the caller's argument is called, for errors.
        file: its name; who holds the lock stands there.
        patience: seconds that another holder has to end.
    """

    def __init__(self, folder: str | os.PathLike, name="log_dir", file=LOCK, patience=0.5):
        self._path = Path(os.path.realpath(folder), file)
        self._patience = patience
        self._received = f"Received: {name}={str(folder)!r}"
        self._holder = None

    def acquire(self) -> None:
        """Takes the lock; of several processes all must call this.

        Raises:
            ValueError: if someone else holds it, or the processes do not see one and the same folder.
            OSError: if the folder cannot be written.
        """
        from keras_aha.distribution import processes  # it loads JAX, which those who only ask do not need

        with processes.together():
            if processes.is_first():
                self._holder = _take(self._path, self._patience, self._received)
        (text,) = processes.gather_records([_read(self._path)] if processes.is_first() else [])
        try:
            with processes.together():
                if not processes.is_first():
                    self._find(text)
        except ValueError:
            self.release()
            raise

    def release(self) -> None:
        """Lets go of the lock, if it is held."""
        self._holder = None

    def __enter__(self):
        self.acquire()
        return self

    def __exit__(self, *error):
        self.release()

    def _find(self, text):
        if not _wait(SECONDS, lambda: _read(self._path) == text):
            raise ValueError(
                f"Several processes need a folder that all of them see: {_this_process()} does not find there what "
                f"{text} has written. {self._received}"
            )


def check_unused(folder: str | os.PathLike, name: str = "log_dir") -> None:
    """Raises ValueError if another process holds the lock of a folder, which may be missing."""
    if os.path.isfile(Path(folder, LOCK)):  # which no name is too long for
        _take(Path(os.path.realpath(folder), LOCK), 0, f"Received: {name}={str(folder)!r}")


def _take(path, patience, received):
    holder = _wait(patience, lambda: _hold(path))
    if holder is None:
        other = _read(path) or "another process"
        raise ValueError(f"{path.parent} is in use by {other}: wait until it has ended, or end it. {received}")
    return holder


def _wait(seconds, look):
    """What `look` returns, as soon as that is true, or after so many seconds."""
    end = time.monotonic() + seconds
    while not (seen := look()) and time.monotonic() < end:
        time.sleep(0.1)
    return seen


def _read(path):
    with contextlib.suppress(OSError):
        [os.listdir(folder) for folder in path.parents[1::-1]]  # so that NFS looks anew
        return path.read_text(encoding="utf-8")
    return ""


def _this_process():
    return f"process {os.getpid()} on {socket.gethostname()}"


# === What this process holds ===


class _Holder:
    """A locked file, which is removed once no `FolderLock` refers to it."""

    def __init__(self, file, path, missing):
        self.file = file
        weakref.finalize(self, _let_go, file, path, missing)
        file.truncate(0)
        file.write(f"{_this_process()} since {datetime.datetime.now():%Y-%m-%d %H:%M:%S}".encode())


def _hold(path) -> _Holder | None:
    """`None` if another process holds it."""
    holder = _holders.get(path)
    if holder is not None and _is_at(holder.file, path):
        return holder
    missing = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "ab", buffering=0)  # noqa: SIM115  open for as long as it is locked
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError:
        warnings.warn(f"The disk of {path.parent} has no locks: see that no second process writes there.", stacklevel=2)
    if not _is_at(file, path):  # it was removed as another process let go
        return None
    holder = _holders[path] = _Holder(file, path, missing)
    return holder


def _is_at(file, path):
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _let_go(file, path, missing):
    with contextlib.suppress(OSError, ValueError):  # something is in a folder; a fork closed the file
        if _is_at(file, path):
            path.unlink()
        for folder in missing:
            folder.rmdir()
    file.close()


def _close_in_child():
    for holder in list(_holders.values()):
        holder.file.close()
    _holders.clear()


os.register_at_fork(after_in_child=_close_in_child)  # or a child that outlives this process would hold the lock
