"""The notebook as Jupyter runs it, from top to bottom, on two virtual CPU devices."""

import importlib.util
import inspect
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import keras_aha
from keras_aha import planner
from keras_aha.files import presets_folder
from keras_aha.recipes.recipe import Recipe
from keras_aha.runs.machine import Machine
from keras_aha.training.grpo_model import GRPOModel

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
PATH = ROOT / "notebooks" / "countdown.ipynb"
NOTEBOOK = nbformat.read(PATH, as_version=4)
SOURCES = {cell.id: cell.source for cell in NOTEBOOK.cells if cell.cell_type == "code"}
HOSTS = ("KAGGLE_KERNEL_RUN_TYPE", "COLAB_RELEASE_TAG")  # variables that are set there
SMALL = "training.epochs=1 rollouts.prompts_per_epoch=2 rollouts.group_size=2 training.micro_batch_size=4 "
SMALL += "rollouts.max_completion_length=16 training.completion_lengths=1 evaluation.puzzles=3 evaluation.samples=1"


def test_it_is_short_has_not_been_run_and_uses_public_names():
    assert (NOTEBOOK.nbformat, NOTEBOOK.nbformat_minor, NOTEBOOK.metadata.kernelspec.name) == (4, 5, "python3")
    nbformat.validate(NOTEBOOK)
    assert len(SOURCES) <= 14 and all(len(source.splitlines()) <= 25 for source in SOURCES.values())
    assert not any(cell.get("execution_count") or cell.get("outputs") for cell in NOTEBOOK.cells)
    imported = re.findall(r"^(?:from|import) (keras_aha\S*.*)", "\n".join(SOURCES.values()), re.MULTILINE)
    expected = ["keras_aha as aha", "keras_aha.runs.machine import find_machine", "keras_aha import planner"]
    assert [line.split("  #")[0] for line in imported] == expected
    assert len(inspect.getsource(GRPOModel.train_step).splitlines()) <= 40  # "the algorithm, on one screen"


def test_times_are_those_of_the_recipes_and_the_planner():
    table = NOTEBOOK.cells[0].source
    for recipe, model in {"gemma2_2b_en": "Gemma 2 2B", "gemma3_1b": "Gemma 3 1B"}.items():
        comment = (presets_folder() / f"{recipe}.toml").read_text(encoding="utf-8")
        assert f"| {model} | {re.search('an epoch, (.+) for 300[.]$', comment, re.MULTILINE)[1]} |" in table
    assert "| Gemma 3 270M | 1 h, 1.7 h |" in table
    plan = planner.plan(Recipe.load("gemma3_270m").override('model.dtype="float16"'), "t4")
    assert plan.fits and "103 min for 300" in planner.in_a_line(plan)
    assert plan.run.run_seconds / 2 == pytest.approx(3600, rel=0.15)  # each of two has half of the rows


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that runs the first cell without keras-aha; it returns its names and what it told IPython's magics."""
    for folder in ("keras_aha", "notebooks", "runs", ".git"):
        (tmp_path / "repository" / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "repository" / "notebooks")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for variable in HOSTS:
        monkeypatch.delenv(variable, raising=False)

    def run():
        lines = []
        shell = SimpleNamespace(run_line_magic=lambda *told: lines.append(told))  # stands for IPython
        names = {"get_ipython": lambda: shell}
        exec(TransformerManager().transform_cell(SOURCES["install"]), names)
        return names, lines

    return run


@pytest.mark.parametrize(
    "host, gpu, extra", [(None, 0, ""), (HOSTS[0], 0, "[tpu]"), (HOSTS[1], 0, "[tpu]"), (HOSTS[1], 1, "[cuda]")]
)
def test_it_is_installed_for_the_machine(host, gpu, extra, install, monkeypatch, tmp_path):
    if host:
        monkeypatch.setenv(host, "x")
    if gpu:
        (tmp_path / "nvidia-smi").touch(mode=0o755)
    names, lines = install()
    assert lines == [("pip", 'install -q "{folder}{extra}"')] and names["extra"] == extra
    assert {path.name for path in Path(names["folder"]).iterdir()} == {"keras_aha", "notebooks"}  # no runs, no .git


def test_another_folder_is_refused_and_nothing_is_installed_twice(install, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"Received: SOURCE='\.\.'$"):
        install()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert install()[1] == []


@pytest.mark.parametrize("host, fails", [(None, False), (HOSTS[0], False), (HOSTS[1], True)])
def test_where_tensorboard_cannot_be_shown_the_report_is_named(host, fails, monkeypatch, capsys):
    for variable in HOSTS:
        monkeypatch.delenv(variable, raising=False)
    if host:
        monkeypatch.setenv(host, "x")
    told = []

    def magic(*words):
        told.append(words)
        if fails:
            raise ModuleNotFoundError("No module named 'pkg_resources'")

    names = {"get_ipython": lambda: SimpleNamespace(run_line_magic=magic), "os": os, "folder": "runs/demo"}
    exec(TransformerManager().transform_cell(SOURCES["tensorboard"]), names)
    assert len(told) == (1 if fails else 0 if host else 2)
    assert ("The report in section 10 has the curves." in capsys.readouterr().out) == bool(host)


@pytest.mark.parametrize("recipe", ["countdown_tiny", "gemma3_270m"])
def test_the_second_half_is_for_accelerators(recipe, tmp_path, capsys):
    """By the embedded model in place of the weights, and a small run; on a CPU nothing happens."""
    changes = ("model.preset=countdown_tiny", "task.template=compact", "rollouts.max_prompt_length=32", *SMALL.split())
    machine = Machine("a GPU", "gemma3_270m_zero", changes, None, tmp_path)
    names = {"aha": keras_aha, "machine": SimpleNamespace(recipe=recipe), "START": time.time()}
    names |= {"find_machine": lambda name: machine, "show_accuracy": lambda when, tables: print(when, len(tables[0]))}
    exec(SOURCES["zero"], names)
    said = capsys.readouterr().out
    assert (tmp_path / "notebook-gemma3_270m_zero" / "summary.json").exists() == (recipe != "countdown_tiny")
    assert said.count("before 3\n") == 2 * said.count("after 3\n") == (0 if recipe == "countdown_tiny" else 2)


@pytest.mark.slow
def test_all_of_it_runs(tmp_path):
    notebook = nbformat.read(PATH, as_version=4)
    (tensorboard,) = (cell for cell in notebook.cells if cell.id == "tensorboard")
    tensorboard.source = ""  # it starts a server
    environment = {name: value for name, value in os.environ.items() if name not in HOSTS}
    environment |= {
        "KERAS_AHA_SET": SMALL,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "HTTPS_PROXY": "http://127.0.0.1:9",  # nothing can be downloaded
    }
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute(env=environment)
    said = dict.fromkeys((cell.id for cell in notebook.cells), "")
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            said[cell.id] += output.get("text", "") + "".join(output.get("data", {}).values())
    assert "2 × cpu: countdown_tiny, 1 epochs, into runs/notebook-countdown_tiny\n" in said["recipe"]
    assert "countdown_tiny on this machine: fits" in said["plan"]
    assert "2 batch × 1 model" in said["experiment"]
    assert re.findall(r"reward (...)", said["puzzle"]) == ["0.0", "0.1", "1.0"]
    assert "def train_step" in said["algorithm"]
    assert re.search(r"before: [\d.]+% sampled", said["before"])  # a slow machine shows a bar before it
    assert "Done. All of it is in runs/notebook-countdown_tiny\n" in said["train"]
    report = said["report"].removeprefix("<IPython.core.display.HTML object>")
    assert report.startswith('<div><iframe srcdoc="') and report.count("<") == 4  # all of the page is escaped
    assert re.search(r"after: [\d.]+% sampled", said["examples"])
    assert len(re.findall(r"^\[.* -> \d+\] (?:before|after): \w+$", said["examples"], re.MULTILINE)) == 6
    assert "of 16 are right; one solution is " in said["ask"]
    assert "adapters.lora.h5" in said["keep"]
    run = tmp_path / "runs" / "notebook-countdown_tiny"
    assert {"history.csv", "report.html", "saved_epochs", "summary.json", "train"} <= set(os.listdir(run))
    assert Recipe.load(run / "recipe.toml").rollouts.max_completion_length == 16
