"""`PythonCode`: runs Python code that a policy writes, shut in."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from keras_aha.tasks.tools.tool import Tool, ToolError

_PROGRAM = Path(__file__).with_name("python_child.py")
_LONGEST = 65536  # bytes that are printed, or of a file


class PythonCode(Tool):
    """Runs Python code and answers what it prints, errors too. It knows the standard library alone.

    Each call starts a process of its own, which namespaces of Linux shut in: it has no network, sees no other process,
    nothing of the environment, and of all files Python's and the system's libraries, which it can only read, and an
    empty `/tmp`, which is gone afterwards. It can start no process or thread. Where Linux grants no namespaces, as in
    many containers, nothing is run at all.

    Args:
        seconds: of computing that a call may take; by the clock it may take twice that and one more.
        memory: in MiB; what lies in `/tmp` may take as much again.
        output: characters that may be printed; more is an error.

    Raises:
        ValueError: if an argument is out of range, or code cannot be shut in here.
    """

    name = "python"
    description = "runs Python code, with the standard library alone, and answers what it prints"
    parameters = {"properties": {"code": {"type": "string"}}, "required": ["code"]}

    def __init__(self, seconds: int = 2, memory: int = 256, output: int = 2000):
        limits = {"seconds": (seconds, 1, 600), "memory": (memory, 32, 65536), "output": (output, 1, _LONGEST)}
        for name, (value, least, most) in limits.items():
            if not isinstance(value, int) or not least <= value <= most:
                raise ValueError(f"`{name}` must be an integer from {least} to {most}. Received: {name}={value!r}")
        self.seconds, self.memory, self.output = seconds, memory, output
        status, text = self._run("print(6 * 7)") if sys.platform == "linux" else (2, "This is not Linux")
        if (status, text) != (0, "42\n"):
            why = text.strip().rpartition("\n")[2] or f"status {status}"
            raise ValueError(
                "Code can be run only where Linux lets a process shut itself in by namespaces, so the tool `python` "
                f"must be left out here, or this container be given that right. Received: {why}"
            )

    def call(self, problem: Any, code: str) -> str:
        try:
            status, text = self._run(code)
        except ValueError:  # it cannot be an argument of a program
            raise ToolError("The code has characters that are no text.") from None
        except subprocess.TimeoutExpired:
            raise ToolError(f"The code took more than {self.seconds} seconds.") from None
        if status == 2:
            raise RuntimeError(f"Code could not be shut in: {text}")
        if len(text) > self.output:
            raise ToolError(f"The code prints more than {self.output} characters.")
        if status:
            raise ToolError(text.strip() or f"The code did not end well, or took more than {self.seconds} seconds.")
        return text

    def _run(self, code: str) -> tuple[int, str]:
        python = os.path.realpath(sys.executable)
        limits = map(str, (self.seconds, self.memory << 20, _LONGEST))
        environment = {"LD_LIBRARY_PATH": f"{sys.base_prefix}/lib"}
        with tempfile.TemporaryFile() as output:
            streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
            command = [python, "-I", "-S", str(_PROGRAM), code, python, *limits]
            status = subprocess.run(command, env=environment, timeout=2 * self.seconds + 1, **streams).returncode
            output.seek(0)
            return status, output.read().decode(errors="replace")
