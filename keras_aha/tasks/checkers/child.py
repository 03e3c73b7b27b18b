"""`Child`: a process of its own that looks at hostile texts."""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

_PROGRAM = Path(__file__).with_name("child_program.py")
_PASSED_ON = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH")  # nothing else, so that no key or token is there to be read


class Child:
    """A Python process that answers one question at a time, see `child_program`.

    It begins as a program of its own: a fork would copy JAX's threads in the middle of their work, and
    multiprocessing's "spawn" would run the user's script again. Lines of JSON go back and forth, so what a child says
    is never more than a text here. It ends with this process, whichever way that ends, and Ctrl-C does not reach it.

    Args:
        kind: what it is asked.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._process = None
        self._count = 0
        self._lock = threading.Lock()
        atexit.register(self.close)

    def start(self) -> None:
        """Starts the process if there is none, and waits until it answers."""
        self.ask({}, 1.0)

    def ask(self, question: dict, seconds: float) -> str:
        """Returns its verdict: `"too_slow"` after `seconds`, `"too_long"` if memory runs out, or what it has found.

        Raises:
            RuntimeError: if the process does not start, or ends twice.
        """
        with self._lock:
            self._count += 1  # so that the reply to a question that was interrupted is no one else's
            line = json.dumps(question | {"seconds": seconds, "number": self._count}) + "\n"
            for _ in range(2):  # once more if someone else has ended it
                with contextlib.suppress(BrokenPipeError):
                    self._launch()
                    self._process.stdin.write(line)
                    self._process.stdin.flush()
                    for reply in self._process.stdout:
                        number, verdict = reply.split()
                        if int(number) == self._count:
                            return verdict
                self.close()
        raise RuntimeError(f"A checker's process does not run; to see why: {sys.executable} {_PROGRAM} {self.kind}")

    def _launch(self):
        if self._process is None:
            environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
            command = [sys.executable, "-P", str(_PROGRAM), self.kind]  # -P: its folder is no place to import from
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self._process = subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes)

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
        self._process = None


def check_seconds(seconds: float) -> float:
    """Returns `seconds`, the time that an answer may take; ValueError if it is none."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= 600:
        raise ValueError(f"`seconds` must be above 0 and at most 600. Received: seconds={seconds!r}")
    return seconds
