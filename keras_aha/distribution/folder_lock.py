"""`FolderLock`: one process at a time writes a folder."""

import contextlib
import datetime
import errno
import fcntl
import os
import socket
import threading
import time
import warnings
import weakref
from pathlib import Path

LOCK = ".lock"
SECONDS = 20  # after which all hosts see a file that one of them has written
_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
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
        one_thread: whether those of another thread that set it too are others.
    """

    def __init__(self, folder: str | os.PathLike, name="log_dir", file=LOCK, patience=0.5, one_thread=False):
        self._path = Path(os.path.realpath(folder), file)
        self._patience, self._one_thread = patience, one_thread
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
                self._take()
        (text,) = processes.gather_records([self._holder.text] if processes.is_first() else [])
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

    def _take(self):
        end = time.monotonic() + self._patience
        while self._holder is None:
            self._holder = _take(self._path, self._one_thread)
            if self._holder is None:
                if time.monotonic() >= end:
                    raise _in_use(self._path, self._received)
                time.sleep(0.1)

    def _find(self, text):
        end = time.monotonic() + SECONDS
        while _read(self._path) != text:
            if time.monotonic() >= end:
                raise ValueError(
                    f"Several processes need a folder that all of them see: {_this_process()} does not find there what "
                    f"{text} has written. {self._received}"
                )
            time.sleep(0.2)


def check_unused(folder: str | os.PathLike, name: str = "log_dir") -> None:
    """Raises ValueError if another process holds the lock of a folder, which may be missing."""
    path = Path(os.path.realpath(folder), LOCK)
    if path.is_file() and _take(path) is None:
        raise _in_use(path, f"Received: {name}={str(folder)!r}")


def _in_use(path, received):
    holder = _read(path) or "another process"
    return ValueError(f"{path.parent} is in use by {holder}: wait until it has ended, or end it. {received}")


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
        self.file, self.thread = file, None
        self.text = f"{_this_process()} since {datetime.datetime.now():%Y-%m-%d %H:%M:%S}"
        weakref.finalize(self, _let_go, file, path, missing, os.getpid())
        file.truncate(0)
        file.write(self.text.encode())


def _take(path, one_thread=False) -> _Holder | None:
    """`None` if someone else holds it, be it another thread that is alive."""
    own = threading.current_thread()
    holder = _holders.get(str(path))
    if holder is None or not _is_at(holder.file, path):
        missing = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _open_locked(path)
        if file is None:
            return None
        holder = _holders[str(path)] = _Holder(file, path, missing)
    elif one_thread and holder.thread not in (None, own) and holder.thread.is_alive():
        return None
    holder.thread = own if one_thread else holder.thread
    return holder


def _open_locked(path):
    """`None` if another process has it locked."""
    file = open(path, "ab", buffering=0)  # noqa: SIM115  open for as long as it is locked
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        warnings.warn(f"The disk of {path.parent} has no locks: see that no second process writes there.", stacklevel=2)
        return file
    return file if _is_at(file, path) else None  # it may have been removed as another process let go


def _is_at(file, path):
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _let_go(file, path, missing, process):
    if os.getpid() == process:  # and not a fork of it
        with contextlib.suppress(OSError):
            if _is_at(file, path):
                path.unlink()
            for folder in missing:
                folder.rmdir()  # unless there is something in it
    file.close()


def _close_in_child():
    for holder in list(_holders.values()):
        holder.file.close()
    _holders.clear()


os.register_at_fork(after_in_child=_close_in_child)  # or a child that outlives this process would hold the lock
