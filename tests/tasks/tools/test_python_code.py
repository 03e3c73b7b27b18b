"""Code that a policy writes is shut in, or it is not run at all."""

import os
import subprocess
import sys
import time
from pathlib import Path

from keras_aha.tasks import Multiplication, MultiplicationProblem, Turn
from keras_aha.tasks.tools import python_code
from keras_aha.tasks.tools.python_code import PythonCode
from keras_aha.tasks.tools.tool import ToolError
from keras_aha.tasks.tools.with_tools import WithTools

import pytest

REFUSAL = "Code can be run only where Linux lets a process shut itself in by namespaces, so the tool `python` must be"


def make(**settings):
    """The tool; `None` where this machine grants no namespaces, and then it must have said so."""
    try:
        return PythonCode(**settings)
    except ValueError as error:
        assert str(error).startswith(REFUSAL)
        return None


def run(code, **settings):
    """What code prints, or what the policy is told."""
    try:
        return make(**settings).call(None, code)
    except ToolError as error:
        return f"ERROR: {error}"


TOOL = make(seconds=1)
SHUT_IN = pytest.mark.skipif(TOOL is None, reason="no namespaces here: the refusal has been checked")


def test_where_there_are_no_namespaces_it_is_refused(monkeypatch, tmp_path):
    program = tmp_path / "no_rights.py"
    program.write_text("print('Operation not permitted'); raise SystemExit(2)")
    monkeypatch.setattr(python_code, "_PROGRAM", program)
    with pytest.raises(ValueError, match=REFUSAL + ".*Received: Operation not permitted$"):
        PythonCode()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ValueError, match=REFUSAL + ".*Received: This is not Linux$"):
        PythonCode()


@pytest.mark.parametrize("settings", [{"seconds": 0}, {"memory": 31}, {"output": 0}, {"seconds": 1.5}])
def test_limits_out_of_range(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"`{name}` must be an integer from"):
        PythonCode(**settings)


@SHUT_IN
@pytest.mark.parametrize(
    "code, words",
    [
        ("print(sum(range(10)))", "45\n"),
        ("import fractions, json\nprint(json.dumps('ü'), fractions.Fraction(1, 2))", '"\\u00fc" 1/2\n'),
        ("", ""),
        ("1 / 0", "ERROR: Traceback .*, line 1, in <module>\nZeroDivisionError"),
        ("print(1", "ERROR: .*SyntaxError"),
        ("raise SystemExit(3)", "ERROR: The code did not end well"),
        ("raise SystemExit(2)", "ERROR: The code did not end well"),
        ("print(\x00)", "ERROR: The code has characters that are no text."),
        ("print('\ud800')", "ERROR: The code has characters that are no text."),
        ("while True: pass", "ERROR: .*took more than 1 seconds."),
        ("import time; time.sleep(60)", "ERROR: The code took more than 1 seconds."),
        ("x = bytearray(1 << 30)", "ERROR: .*MemoryError"),
        ("while True: print('x' * 1000)", "ERROR: The code prints more than 2000 characters."),
        ("import os\nwhile True: os.fork()", "ERROR: .*BlockingIOError"),
        ("import threading; threading.Thread(target=print).start()", "ERROR: .*can't start new thread"),
        ("import os; os.kill(-1, 9)", "ERROR: .*No such process"),
        ("open('/tmp/x', 'w').write('x' * 10); print(open('/tmp/x').read())", "xxxxxxxxxx\n"),
        ("open('/tmp/x', 'w').write('x' * 100_000)", "ERROR: .*File too large"),
        ("import os, sys; os.remove(os.__file__)", "ERROR: .*Read-only file system"),
        ("open('/x', 'w')", "ERROR: .*Read-only file system"),
        ("import numpy", "ERROR: .*No module named 'numpy'"),
        ("import socket; socket.create_connection(('127.0.0.1', 22))", "ERROR: .*Network is unreachable"),
        ("import socket; socket.getaddrinfo('example.org', 80)", "ERROR: .*gaierror"),
        ("import ctypes as c; print(c.CDLL(None).unshare(0x10000000), c.CDLL(None).mount(*[None] * 5))", "-1 -1\n"),
        ("print({'a', 'b', 'c', 'd'})", "{"),
    ],
)  # fmt: skip
def test_what_code_can_and_cannot(code, words):
    start = time.monotonic()
    told = TOOL.call(None, code) if not words.startswith("ERROR") else run(code, seconds=1)
    assert time.monotonic() - start < 12
    if ".*" in words:
        assert told.startswith("ERROR") and words.partition(".*")[2] in told and len(told) < 2100
    else:
        assert told == words if words.endswith("\n") else told.startswith(words)
    assert TOOL.call(None, "import os; print(os.listdir('/tmp'))") == "[]\n"


@SHUT_IN
def test_it_sees_nothing_of_the_user(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret-4711")
    folders = [Path.home(), Path.cwd(), Path(__file__).parent, "/etc", "/proc", "/dev", "/sys", "/var", "/home"]
    seen = f"import os, sys\nprint(sorted(os.environ), [x for x in {list(map(str, folders))} if os.listdir(x)])"
    code = seen.replace("if os.listdir(x)", "if os.path.isdir(x) and [n for n in os.listdir(x) if n[0] != '.']")
    assert TOOL.call(None, code) == "['LC_CTYPE', 'LD_LIBRARY_PATH', 'PYTHONHASHSEED'] []\n"
    assert TOOL.call(None, "import os; print(os.getuid() == 0, os.getppid())") == "False 0\n"


@SHUT_IN
def test_nothing_outlives_the_process_that_asked():
    """It is killed in the middle of a call."""
    mark = f"4711{os.getpid()}"
    code = f"import time; time.sleep({mark})"
    script = f"from keras_aha.tasks.tools.python_code import PythonCode\nPythonCode(seconds=60).call(None, {code!r})"
    root = Path(__file__).parents[3]
    child = subprocess.Popen([sys.executable, "-c", script], cwd=root, stderr=subprocess.DEVNULL)
    wait_until(lambda: count(mark) == 3)  # that script, the program that shuts in, and the code
    child.kill()
    child.wait()
    wait_until(lambda: count(mark) == 0)


def count(mark):
    """How many processes have the mark among their arguments."""
    lines = (path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
    return sum(mark.encode() in line for line in lines)


def wait_until(holds):
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@SHUT_IN
def test_a_policy_calls_it():
    task, problem = WithTools(Multiplication(), [TOOL]), MultiplicationProblem(23, 4)
    observation = task.respond(problem, [Turn("<python>\nprint(23 * 4)\n</python>")])
    assert (observation.text, observation.is_error) == ("92\n", False)
    observation = task.respond(problem, [Turn("<python>print(x)</python>")])
    assert observation.is_error and observation.text.endswith("NameError: name 'x' is not defined")
