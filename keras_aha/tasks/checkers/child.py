"""`Child`: a process that looks at hostile texts, and is killed if it takes too long."""

import atexit
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

_PROGRAM = Path(__file__).with_name("child_program.py")
_PASSED_ON = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH")  # nothing else, so that no key or token is there to be read


class Child:
    """A Python process that answers one question at a time, and starts anew after it was killed.

    It begins as a program of its own: a fork would copy JAX's threads in the middle of their work, and
    multiprocessing's "spawn" would run the user's script again. Lines of JSON go back and forth, so what a child says
    is never more than a text here. It ends with this process, whichever way that ends.

    Args:
        kind: what it is asked: see `child_program`.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._process = None
        self._lock = threading.Lock()
        atexit.register(self.close)

    def start(self) -> None:
        """Starts the process if there is none, and waits until it is ready; RuntimeError if it does not start."""
        self._launch()
        if not self._is_ready and self._process.stdout.readline() != "ready\n":
            self.close()
            raise RuntimeError(
                f"The process of a checker does not start: run `{sys.executable} {_PROGRAM} {self.kind}`."
            )
        self._is_ready = True

    def ask(self, question: dict, seconds: float) -> str:
        """Returns its verdict; `"too_slow"` if that takes longer than `seconds`, `"too_long"` if memory runs out."""
        with self._lock:
            self.start()
            process, is_late = self._process, threading.Event()
            timer = threading.Timer(seconds, lambda: (is_late.set(), process.kill()))
            try:
                timer.start()
                process.stdin.write(json.dumps(question | {"seconds": seconds}) + "\n")
                process.stdin.flush()
                reply = process.stdout.readline()
            except BrokenPipeError:
                reply = ""
            except BaseException:  # such as the time limit of rewards: its answer would be taken for the next one's
                self.close()
                raise
            finally:
                timer.cancel()
            timer.join()
            if is_late.is_set() or not reply:
                self.close()
                self._launch()  # meanwhile
            return reply.strip() or ("too_slow" if is_late.is_set() else "too_long")

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self._process:
            self._process.kill()
            self._process.communicate()
        self._process = None

    def _launch(self):
        if self._process is None:
            self._is_ready = False
            environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
            command = [sys.executable, "-P", str(_PROGRAM), self.kind]  # -P: its folder is no place to import from
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self._process = subprocess.Popen(command, env=environment, text=True, **pipes)


def check_seconds(seconds: float) -> float:
    """Returns `seconds`, the time that an answer may take; ValueError if it is none."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= 600:
        raise ValueError(f"`seconds` must be above 0 and at most 600. Received: seconds={seconds!r}")
    return seconds
