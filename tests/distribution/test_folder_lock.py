"""Other processes are real ones; they end by a signal where that matters."""

import os
import signal
import subprocess
import sys

from keras_aha.distribution import folder_lock, processes
from keras_aha.distribution.folder_lock import LOCK, FolderLock, check_unused

import pytest

HOLD = "import sys; from keras_aha.distribution.folder_lock import FolderLock; lock = FolderLock(sys.argv[1])"
HOLD += "; lock.acquire(); print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def other(tmp_path):
    """A process that holds the lock of `tmp_path / "run"`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "held\n"
        yield child
        child.kill()


def test_another_process_is_named_and_a_kill_lets_go(other, tmp_path):
    folder = tmp_path / "run"
    said = f"{folder} is in use by process {other.pid} on .*: wait until it has ended, or end it. Received: out="
    with pytest.raises(ValueError, match=said):
        FolderLock(folder, "out").acquire()
    with pytest.raises(ValueError, match=said):
        check_unused(folder, "out")
    with FolderLock(folder, file=".another"):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (folder / LOCK).exists()
    check_unused(folder)
    with FolderLock(folder):
        assert f"process {os.getpid()} on " in (folder / LOCK).read_text()


def test_a_folder_is_left_as_it_was(tmp_path):
    with FolderLock(tmp_path / "a" / "b"):
        assert os.listdir(tmp_path / "a" / "b") == [LOCK]
    assert not list(tmp_path.iterdir())
    with FolderLock(tmp_path / "a" / "b"):
        (tmp_path / "a" / "file").write_text("")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "file"]


def test_a_process_may_take_it_again(tmp_path):
    """As a notebook's cell does that is run again, be it after `rm -r`; nothing is let go of too early."""
    first, second = FolderLock(tmp_path / "run"), FolderLock(tmp_path / "run")
    first.acquire()
    second.acquire()
    first.release()
    check_unused(tmp_path / "run")
    assert (tmp_path / "run" / LOCK).exists()
    (tmp_path / "run" / LOCK).unlink()
    first.acquire()
    second.release()
    assert (tmp_path / "run" / LOCK).exists()
    del first
    assert not os.listdir(tmp_path / "run")


def test_a_child_that_lives_longer_does_not_hold_it(tmp_path):
    """A fork; what begins another program closes such files anyway."""
    lock = FolderLock(tmp_path / "run")
    lock.acquire()
    with pytest.warns(RuntimeWarning, match="fork"):
        child = os.fork()
    if not child:
        signal.pause()
    try:
        lock.release()
        assert not list(tmp_path.iterdir())
        command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
        assert subprocess.run(command, input="", capture_output=True, text=True).stdout == "held\n"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_disk_without_locks_is_said(tmp_path, monkeypatch):
    def flock(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(folder_lock.fcntl, "flock", flock)
    with pytest.warns(UserWarning, match=f"The disk of {tmp_path} has no locks"), FolderLock(tmp_path):
        pass


def test_a_folder_that_hosts_do_not_share(tmp_path, monkeypatch):
    """Seen from a process that is not the first one."""
    monkeypatch.setattr(folder_lock, "SECONDS", 0.3)
    monkeypatch.setattr(processes, "is_first", lambda: False)
    texts = iter([[], ["process 1 on a"], []] * 2)
    monkeypatch.setattr(processes, "gather_records", lambda records: [*records, *next(texts)])
    with pytest.raises(ValueError, match=r"a folder that all of them see: process \d+ on .* what process 1 on a has"):
        FolderLock(tmp_path / "none" / "run").acquire()
    (tmp_path / LOCK).write_text("process 1 on a")
    FolderLock(tmp_path).acquire()
