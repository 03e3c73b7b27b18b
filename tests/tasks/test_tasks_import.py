"""`keras_aha.tasks` and `keras_aha.evaluation.behaviours` need the standard library only."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["keras_aha.tasks", "keras_aha.evaluation.behaviours"])
def test_no_heavy_import(module):
    program = (
        f"import sys, {module}\n"
        "print([name for name in ('keras', 'jax', 'tensorflow', 'numpy', 'pandas') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
