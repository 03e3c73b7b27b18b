import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from keras_aha.tasks.checkers.child import Child
from keras_aha.training.time_limit import TimeLimitError, within

import pytest

EASY = {"answer": "ab", "pattern": "a+b"}
ENDLESS = {"answer": "a" * 99, "pattern": "(a+)+b"}


@pytest.fixture
def child():
    child = Child("regex")
    yield child
    child.close()


def is_running(pid):
    """Whether a process is there, and not only its entry in the table."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_late_worker_is_killed_and_the_next_is_there(child):
    verdicts = [child.ask(question, 0.3) for question in (EASY, ENDLESS, ENDLESS, EASY)]
    assert verdicts == ["correct", "too_slow", "too_slow", "correct"]


def test_it_is_asked_again_if_someone_else_has_ended_it(child):
    assert child.ask(EASY, 9) == "correct"
    os.killpg(child._process.pid, signal.SIGKILL)
    assert child.ask(EASY, 9) == "correct"


def test_an_interrupted_question_is_not_the_next_ones_answer(child):
    child.start()
    with pytest.raises(TimeLimitError):
        within(0.2, child.ask, ENDLESS, 1)
    with pytest.raises(TimeLimitError):
        within(0.2, child.ask, {"answer": "x", "pattern": "x"}, 9)  # it waits for the one before
    assert child.ask(EASY, 9) == "correct" and child.ask({"answer": "x", "pattern": "y"}, 9) == "wrong_value"


def test_it_knows_no_secrets_and_hears_no_ctrl_c(child, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret4711")
    child.start()
    pid = child._process.pid
    assert b"secret" not in Path(f"/proc/{pid}/environ").read_bytes() and os.getpgid(pid) != os.getpgid(0)


def test_questions_that_it_cannot_read(child):
    assert child.ask({"answer": "\ud800\n\x00", "pattern": "."}, 9) == "wrong_value"
    assert child.ask({"answer": "a", "pattern": "("}, 9) == "not_readable"
    assert child.ask({"answer": "a", "pattern": "(" * 10**5}, 9) == "too_long"
    assert child.ask(EASY, 9) == "correct"


def test_a_worker_that_dies(child):
    """As by the limit of its memory, where a library ends the process instead of raising MemoryError."""
    assert child.ask(EASY, 9) == "correct"
    (worker,) = Path(f"/proc/{child._process.pid}/task/{child._process.pid}/children").read_text().split()
    os.kill(int(worker), signal.SIGSTOP)
    threading.Timer(0.2, os.kill, (int(worker), signal.SIGKILL)).start()
    assert [child.ask(EASY, 9), child.ask(EASY, 9)] == ["too_long", "correct"]


SCRIPT = """
import os, signal, sys, threading
from keras_aha.tasks.checkers.child import Child
child = Child("regex")
child.start()
print(child._process.pid, flush=True)
if sys.argv[1] == "killed":
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGKILL)).start()
    child.ask({"answer": "a" * 99, "pattern": "(a+)+b"}, 1)
"""


@pytest.mark.parametrize("how", ["exits", "killed"])
def test_it_ends_with_its_parent(how):
    """The script has no `if __name__ == "__main__"`, and is not run again."""
    parent = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True)
    (pid,) = parent.stdout.split()
    deadline = time.monotonic() + 20
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid), parent.stderr


def test_a_program_that_does_not_start(child, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(
        RuntimeError, match="A checker's process does not run; to see why: /bin/false .*child_program.py regex"
    ):
        child.start()
