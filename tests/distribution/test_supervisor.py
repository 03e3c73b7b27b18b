"""Real processes that do what JAX would, without JAX."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from keras_aha.distribution import supervisor

import pytest

BEGIN = "import os, signal, sys, time; sys.stderr = os.fdopen(os.dup(2), 'w', buffering=1)\n"
BEGIN += "from keras_aha.distribution import supervisor; supervisor._GRACE = 1\n"
BEGIN += "supervisor.continue_in_child(lambda: print('lost', file=sys.stderr)); print(os.getpid(), flush=True)\n"
HANGS = "import types; hangs = types.SimpleNamespace(shutdown=lambda: time.sleep(60))  # as others do not end\n"
HANGS += "sys.modules['jax'] = types.SimpleNamespace(process_count=lambda: 2, distributed=hangs)\n"
WAIT = "signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))\nwhile True: time.sleep(0.1)"


def begin(code):
    """The supervisor of a process that runs `code`, and that one's number."""
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    process = subprocess.Popen([sys.executable, "-c", BEGIN + code], **pipes)
    return process, int(process.stdout.readline())


@pytest.mark.parametrize(
    "code, returned, said",
    [
        ("os.write(2, b'by C'); print('by Python', file=sys.stderr)", 0, "by Python\n"),
        ("sys.exit(2)", 2, ""),
        ("os.write(2, b'CoordinationService: task 1 is lost'); os.abort()", 1, "lost\n"),
        ("os.write(2, b'a bug'); os.abort()", 128 + signal.SIGABRT, "a bug\nThe process was ended by SIGABRT.\n"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 128 + signal.SIGKILL, "\nThe process was ended by SIGKILL.\n"),
        (HANGS + "supervisor.leave(SystemExit(2))", 2, ""),
        (HANGS + "supervisor.leave(ValueError('a bug'))", 1, "ValueError: a bug\n"),
        (HANGS + "supervisor.leave(ValueError('UNKNOWN: Gloo AllGather failed'))", 1, "lost\n"),
    ],
)
def test_it_ends_as_its_child_does(code, returned, said):
    process, child = begin(code)
    assert process.communicate(timeout=60) == ("", said) and process.returncode == returned and child != process.pid


def test_a_second_signal_ends_a_child_that_hangs():
    process, _ = begin(WAIT)
    for _ in range(2):
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "asked\n"
    assert process.wait(60) == 128 + signal.SIGKILL


def test_a_child_ends_with_its_supervisor():
    process, child = begin(WAIT)
    process.kill()
    assert process.stdout.read() == ""  # it has no writer any more
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(child, 0)
            time.sleep(0.1)


def test_where_jax_is_loaded_there_is_no_child(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", sys)
    assert supervisor.continue_in_child(None) is None
