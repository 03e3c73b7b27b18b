"""Real processes that end as JAX would end them, without JAX."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BEGIN = "import os, sys, time, types\nfrom keras_aha.distribution import last_words\nlast_words._GRACE = 1\n"
BEGIN += "take_back = last_words.leave_last_words('lost')\n"
HANGS = "hangs = types.SimpleNamespace(shutdown=lambda: time.sleep(60))  # as others do not end\n"
HANGS += "sys.modules['jax'] = types.SimpleNamespace(distributed=hangs)\n"


@pytest.mark.parametrize(
    "code, returned, said",
    [
        ("os.abort()", -6, "lost\n"),
        ("os.kill(os.getpid(), 9)", -9, "lost\n"),
        ("take_back()", 0, ""),
        (HANGS + "take_back(); last_words.end_alone(2)", 2, ""),
        (HANGS + "last_words.end_alone(1)", 1, "lost\n"),
    ],
)
def test_who_has_the_last_word(code, returned, said):
    arguments = dict(cwd=Path(__file__).parents[2], env=os.environ | {"PYTHONFAULTHANDLER": ""}, text=True, timeout=60)
    process = subprocess.run([sys.executable, "-c", BEGIN + code], capture_output=True, **arguments)
    assert (process.returncode, process.stdout, process.stderr) == (returned, "", said)
