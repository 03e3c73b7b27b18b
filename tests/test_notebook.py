"""The notebook as Jupyter runs it, from top to bottom, on two virtual CPU devices; and its cells one by one."""

import contextlib
import importlib.util
import inspect
import os
import re
import signal
import sys
import time
from pathlib import Path

from keras_aha import planner
from keras_aha.files import presets_folder
from keras_aha.recipes.recipe import Recipe
from keras_aha.runs.experiment import load_trained
from keras_aha.training.grpo_model import GRPOModel

import nbformat
import numpy as np
import pandas as pd
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
PATH = ROOT / "notebooks" / "countdown.ipynb"
NOTEBOOK = nbformat.read(PATH, as_version=4)
SOURCES = {cell.id: cell.source for cell in NOTEBOOK.cells if cell.cell_type == "code"}
HOSTS = ("KAGGLE_KERNEL_RUN_TYPE", "COLAB_RELEASE_TAG")  # variables that are set there
SMALL = [
    *("training.epochs=2", "rollouts.prompts_per_epoch=4", "rollouts.group_size=4", "training.micro_batch_size=8"),
    *("rollouts.max_completion_length=64", "training.completion_lengths=1"),
    *("evaluation.puzzles=4", "evaluation.samples=2"),
]


def compiled(name):
    """The code of a cell, its magics as IPython makes them calls."""
    return compile(TransformerManager().transform_cell(SOURCES[name]), name, "exec")


# === As it is committed ===


def test_it_is_short_and_has_not_been_run():
    assert (NOTEBOOK.nbformat, NOTEBOOK.nbformat_minor) == (4, 5)
    assert NOTEBOOK.metadata.kernelspec.name == "python3"
    nbformat.validate(NOTEBOOK)
    assert len(SOURCES) <= 14
    assert all(len(source.splitlines()) <= 25 for source in SOURCES.values())
    for cell in NOTEBOOK.cells:
        assert cell.get("execution_count") is None and not cell.get("outputs")


@pytest.mark.parametrize("name", SOURCES)
def test_a_cell_compiles(name):
    compiled(name)


def test_the_algorithm_fits_on_a_screen():
    assert len(inspect.getsource(GRPOModel.train_step).splitlines()) <= 40


@pytest.mark.parametrize("recipe", ["gemma2_2b_en", "gemma3_1b"])
def test_times_on_a_tpu_are_those_of_the_recipes(recipe):
    comment = (presets_folder() / f"{recipe}.toml").read_text(encoding="utf-8")
    at_best = re.search(r"an epoch, (.+) for 300\.$", comment, re.MULTILINE)[1]
    model = {"gemma2_2b_en": "Gemma 2 2B", "gemma3_1b": "Gemma 3 1B"}[recipe]
    assert f"| {model} | {at_best} |" in NOTEBOOK.cells[0].source


def test_times_on_a_gpu_are_the_planners():
    assert "| Gemma 3 270M | 3.4 h, 6.7 h |" in NOTEBOOK.cells[0].source
    found = planner.plan(Recipe.load("gemma3_270m"), "t4")
    assert found.fits and "6.7 h for 300" in planner.in_a_line(found)
    assert found.run.run_seconds / 2 == pytest.approx(3.4 * 3600, rel=0.02)  # each of two has half of the rows


# === Where keras-aha is not installed ===


class Shell:
    """Stands for IPython: keeps what a magic is told."""

    def __init__(self):
        self.lines = []

    def run_line_magic(self, name, line):
        self.lines.append((name, line))


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that runs the first cell in a checkout without keras-aha, and returns its names and its magics."""
    repository = tmp_path / "repository"
    for folder in ("keras_aha", "notebooks", "runs", ".git"):
        (repository / folder).mkdir(parents=True)
    (repository / "keras_aha" / "__init__.py").write_text("")
    monkeypatch.chdir(repository / "notebooks")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in HOSTS:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def run():
        names = {"get_ipython": lambda: shell}
        shell = Shell()
        exec(compiled("install"), names)
        return names, shell.lines

    return run


@pytest.mark.parametrize("host, extra", [(None, ""), (HOSTS[0], "[tpu]"), (HOSTS[1], "[tpu]")])
def test_it_is_installed_for_the_machine(host, extra, install, monkeypatch):
    if host:
        monkeypatch.setenv(host, "x")
    names, lines = install()
    assert lines == [("pip", 'install -q "{folder}{extra}"')] and names["extra"] == extra
    assert sorted(path.name for path in Path(names["folder"]).iterdir()) == ["keras_aha", "notebooks"]


def test_it_is_installed_for_gpus(install, monkeypatch, tmp_path):
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    monkeypatch.setenv(HOSTS[1], "x")
    assert install()[0]["extra"] == "[cuda]"


def test_nothing_is_installed_where_it_is(install, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert install()[1] == []


def test_another_folder_is_refused(install, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path / "repository")
    with pytest.raises(FileNotFoundError, match=r"Received: SOURCE='\.\.'$"):
        install()


# === From top to bottom ===


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """What the cells showed, the run's folder, and that of temporary files. Nothing can be downloaded."""
    folder, temporary = tmp_path_factory.mktemp("notebook"), tmp_path_factory.mktemp("temporary")
    environment = {name: value for name, value in os.environ.items() if name not in HOSTS}
    environment |= {
        "KERAS_AHA_SET": " ".join(SMALL),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),  # for TensorBoard
        "TMPDIR": str(temporary),
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }
    notebook = nbformat.read(PATH, as_version=4)
    client = NotebookClient(notebook, kernel_name="python3", timeout=600, resources={"metadata": {"path": str(folder)}})
    try:
        client.execute(env=environment)
    finally:
        for server in running_tensorboards(temporary):
            with contextlib.suppress(ProcessLookupError):
                os.kill(server, signal.SIGTERM)
    outputs = {cell.id: cell.get("outputs", []) for cell in notebook.cells}
    return outputs, folder / "runs" / "notebook-countdown_tiny", temporary


def running_tensorboards(temporary):
    """The ids of those that were started with this folder for temporary files, where they note that they run."""
    return [int(re.search(r"\d+", path.name)[0]) for path in (temporary / ".tensorboard-info").glob("pid-*.info")]


def printed(outputs):
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


def shown(outputs, kind):
    return "".join(output.data.get(kind, "") for output in outputs if "data" in output)


@pytest.mark.slow
def test_all_of_it_runs(executed):
    outputs, folder, _ = executed
    assert not [output for cell in outputs.values() for output in cell if output.output_type == "error"]
    assert printed(outputs["recipe"]) == "2 × cpu: countdown_tiny, 2 epochs, into runs/notebook-countdown_tiny\n"
    assert "countdown_tiny on this machine: fits" in shown(outputs["plan"], "text/markdown")
    assert "2 batch × 1 model" in printed(outputs["experiment"])
    assert re.findall(r"reward (...)", printed(outputs["puzzle"])) == ["0.0", "0.1", "1.0"]
    assert "def train_step" in shown(outputs["algorithm"], "text/plain")
    assert re.match(r"before: [\d.]+% sampled", printed(outputs["before"]))
    assert printed(outputs["train"]).splitlines()[-1] == f"Done. All of it is in {Path(*folder.parts[-2:])}"
    assert re.search(r"^after: [\d.]+% sampled", printed(outputs["examples"]), re.MULTILINE)
    assert len(re.findall(r"^\[.* -> \d+\] (?:before|after): \w+$", printed(outputs["examples"]), re.MULTILINE)) == 6
    assert "of 16 are right; one solution is " in printed(outputs["ask"])
    assert "adapters.lora.h5" in printed(outputs["keep"])


@pytest.mark.slow
def test_the_run_is_in_its_folder(executed):
    _, folder, _ = executed
    names = {path.name for path in folder.iterdir()}
    assert {"adapters.lora.h5", "checkpoints", "history.csv", "report.html", "summary.json", "train"} <= names
    assert len(pd.read_csv(folder / "history.csv")) == 2
    recipe = Recipe.load(folder / "recipe.toml")
    assert recipe.rollouts.max_completion_length == 64
    adapters = load_trained(recipe, folder).trainable_variables
    assert any(np.any(variable) for variable in adapters if variable.name.endswith("kernel_b"))  # 0 before training


@pytest.mark.slow
def test_the_report_is_shown_in_a_frame_of_its_own(executed):
    outputs, folder, _ = executed
    page = shown(outputs["report"], "text/html")
    assert page.startswith('<div><iframe srcdoc="') and page.count("<") == 4
    assert (folder / "report.html").stat().st_size < len(page)


@pytest.mark.slow
def test_tensorboard_is_shown_and_ends_with_the_notebook(executed):
    outputs, _, temporary = executed
    assert "tensorboard-frame" in shown(outputs["tensorboard"], "text/html") and not printed(outputs["tensorboard"])
    limit = time.monotonic() + 60
    while running_tensorboards(temporary) and time.monotonic() < limit:
        time.sleep(0.1)
    assert (temporary / ".tensorboard-info").is_dir() and not running_tensorboards(temporary)
