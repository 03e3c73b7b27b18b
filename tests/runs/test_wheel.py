"""A wheel is enough: built here, unpacked by pip, and run in an empty folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SMALL

ROOT = Path(__file__).parents[2]
# In one process, as each loads all libraries.
PROGRAM = """
import sys
import keras_aha.scripts as scripts
for command in {commands}:
    sys.argv = ["keras-aha", *command]
    try:
        scripts.main()
    except SystemExit as ended:
        assert ended.code == {{"fit": 0, "evaluate": 0, "report": 0, "nothing": 2, "--help": 0}}[command[0]], command
print(sys.modules["keras_aha"].__file__)
"""


@pytest.mark.slow
def test_a_wheel_trains_in_an_empty_folder(tmp_path):
    pytest.importorskip("setuptools", minversion="77", reason="needs `pip install -e '.[test]'`")
    source, installed, here = (tmp_path / name for name in ("source", "installed", "here"))
    for name in ("keras_aha", "presets", "scripts"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", installed, wheel], check=True)
    assert "keras_aha.scripts" in (installed / "bin" / "keras-aha").read_text()
    here.mkdir()
    changes = [part for change in [*SMALL, "training.completion_lengths=1"] for part in ("--set", change)]
    run = "runs/countdown_tiny-seed0"
    fit = ["fit", "--epochs", "2", *changes]
    commands = [["--help"], ["nothing"], fit, fit + ["--resume"], ["evaluate", run], ["report", run]]
    command = [sys.executable, "-c", PROGRAM.format(commands=commands)]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(installed / "keras_aha" / "__init__.py")
    assert f"{run} is finished: 2 epochs." in done.stdout and f"{run} after epoch 2: 3 held-out puzzles" in done.stdout
    assert "Received: 'nothing'" in done.stderr
    assert (here / run / "report.html").is_file() and [path.name for path in here.iterdir()] == ["runs"]
