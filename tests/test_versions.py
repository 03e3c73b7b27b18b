"""Fake metadata on the path of a child process: what is installed is looked up, not imported."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from keras_aha.versions import SUPPORTED

import pytest

ROOT = Path(__file__).parents[1]


def child(folder, *arguments, **versions):
    """A Python process for which the `versions` of packages are installed."""
    for package, version in versions.items():
        info = folder / f"{package}-{version}.dist-info"
        info.mkdir()
        name = package.replace("_", "-")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    path = os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, cwd=folder)


@pytest.mark.parametrize(
    "versions, words, command",
    [
        ({"keras": "3.14.1"}, "3.15 or later, because before it LoRA's", 'pip install -U "keras>=3.15,<3.16"'),
        ({"keras": "3.16.0rc0"}, "keras before 3.16, because it was never tried", 'pip install -U "keras>=3.15,'),
        ({"keras_hub": "0.29.0"}, "until 0.29.0 each of several devices computed all", '"keras-hub>=0.32,<0.33"'),
        ({"jax": "0.9.2", "libtpu": "0.0.30"}, "never tried with older", 'pip install -U "jax[tpu'),
        ({"keras": "3.9.0rc1", "keras_hub": "0.33"}, "; keras-hub before", 'pip install -U "keras>=3.15,<3.16" "k'),
    ],
)
def test_other_versions_are_refused_in_one_sentence(tmp_path, versions, words, command):
    result = child(tmp_path, "-c", "import keras_aha", **versions)
    assert result.returncode == 1
    sentence = result.stderr.splitlines()[-1]
    assert sentence.startswith("ImportError: keras-aha needs ") and words in sentence and command in sentence
    received = {name: version for name, version in versions.items() if name != "libtpu"}
    assert sentence.endswith("Received: " + ", ".join(f"{n.replace('_', '-')} {v}" for n, v in received.items()))


@pytest.mark.parametrize("version", ["3.15", "3.15.0.dev2026", "3.15.1"])
def test_versions_between_are_taken(tmp_path, version):
    assert child(tmp_path, "-c", "import keras_aha.tasks", keras=version).returncode == 0


COMMANDS = ["fit.py", "evaluate.py run", "prime.py --out new", "plan.py --topology t4", "check.py", "report.py run"]


@pytest.mark.parametrize("command", COMMANDS)
def test_scripts_say_it_and_exit_with_2(tmp_path, command):
    script, *arguments = command.split()
    result = child(tmp_path, str(ROOT / "scripts" / script), *arguments, keras="3.14.1")
    assert result.returncode == 2 and result.stdout == ""
    assert re.fullmatch(rf"{script}: keras-aha needs keras 3\.15 or later.*Received: keras 3\.14\.1\n", result.stderr)


def test_the_pythons_that_were_tried_are_those_that_pip_takes():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (oldest, newest) = tried = re.findall(r"Python :: (3\.\d+)", " ".join(project["classifiers"]))
    assert project["requires-python"] == f">={oldest},<3.{int(newest[2:]) + 1}"
    assert f"Python {' or '.join(tried)}." in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_bounds_are_those_that_pip_is_told():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for package, (oldest, too_new, _) in SUPPORTED.items():
        assert f"{package}>={oldest},<{too_new}" in project["dependencies"]
