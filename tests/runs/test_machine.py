"""Machines that are not here, by devices and an environment like theirs."""

import importlib
import re
from collections import namedtuple
from pathlib import Path

from keras_aha.files import presets_folder
from keras_aha.models import presets
from keras_aha.recipes.recipe import Recipe
from keras_aha.runs import machine
from keras_aha.runs.experiment import Experiment
from keras_aha.runs.machine import find_machine, session_hours

import jax
import pytest
import tensorflow as tf

Device = namedtuple("Device", "platform device_kind")
V5E, T4 = Device("tpu", "TPU v5 lite"), Device("gpu", "Tesla T4")
MACHINES = {  # the devices, and the recipe for them
    "Kaggle's TPU": ([V5E] * 8, "gemma2_2b_en"),
    "Colab's TPU": ([V5E], "gemma3_1b"),
    "Kaggle's GPUs": ([T4] * 2, "gemma3_270m"),
    "Colab's GPU": ([T4], "gemma3_270m"),
    "a laptop": ([Device("cpu", "cpu")], "countdown_tiny"),
}
PLANS = {  # where each was planned: in its recipe's comment, or in the manual
    "Kaggle's TPU": r"^# Planned for: v5e:2x4\n# By scripts/plan\.py it fits, ",
    "Colab's TPU": r"^# Planned for: v5e:1x1\n# By scripts/plan\.py it fits, ",
    "Colab's GPU": r"By arithmetic, on one T4: `(gemma3_270m)` [\d.]+ of 12 GB",
}


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    for variable, *_ in machine._HOSTS.values():
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def has(monkeypatch):
    """A function that gives the machine devices for as long as the test lasts; CPUs asked for by name are real."""
    real = jax.devices

    def give(devices):
        monkeypatch.setattr(jax, "devices", lambda backend=None: real(backend) if backend else devices)

    return give


@pytest.mark.parametrize("devices, recipe", MACHINES.values(), ids=MACHINES)
def test_a_recipe_for_each(devices, recipe, has):
    has(devices)
    found = find_machine()
    assert found.recipe == recipe
    assert found.name == f"{len(devices)} × {devices[0].device_kind}"
    assert (found.max_hours, found.folder) == (None, Path("runs"))
    recipe = Recipe.load(found.recipe).override(found.changes)
    assert (recipe.model.dtype == "float16") == (devices[0] == T4)
    assert recipe.model.preset == found.recipe
    rows = recipe.rollouts.prompts_per_epoch * recipe.rollouts.group_size
    assert rows % len(devices) == 0 and recipe.training.micro_batch_size % len(devices) == 0


@pytest.mark.parametrize("name", PLANS)
def test_its_recipe_fits_there_as_planned(name):
    _, recipe = MACHINES[name]
    manual = Path(__file__).parents[2] / "docs" / "tpu.md"
    path = manual if name == "Colab's GPU" else presets_folder() / f"{recipe}.toml"
    planned = re.search(PLANS[name], path.read_text(encoding="utf-8"), re.MULTILINE)
    assert planned and set(planned.groups()) <= {recipe}


@pytest.mark.parametrize("host, hours", [("Kaggle", 8.5), ("Colab", 11.5)])
def test_where_sessions_end(host, hours, monkeypatch, has, tmp_path):
    assert session_hours() is None
    variable, _, _, attached = machine._HOSTS[host]
    monkeypatch.setitem(machine._HOSTS, host, (variable, hours, str(tmp_path), attached))
    monkeypatch.setenv(variable, "x")
    has([V5E])
    found = find_machine()
    assert session_hours() == found.max_hours == hours
    before = jax.config.jax_compilation_cache_dir
    machine.keep_compiled_programs(tmp_path / "runs" / "one")  # outlive a session as well
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "runs" / "compiled")
    jax.config.update("jax_compilation_cache_dir", before)
    assert found.name == f"1 × TPU v5 lite on {host}" and found.folder == tmp_path
    monkeypatch.setitem(machine._HOSTS, host, (variable, hours, str(tmp_path / "unmounted"), attached))
    assert find_machine().folder == Path("runs")


@pytest.mark.parametrize("parts", ["gemma3", "models/keras/gemma3"])
def test_attached_weights_are_taken(parts, monkeypatch, has, tmp_path):
    for name in ("gemma3_1b/2", "gemma3_1b/10", "gemma3_1b/notes", "gemma3_instruct_1b/11", "gemma3_270m/1"):
        folder = tmp_path / parts / "keras" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    monkeypatch.setitem(machine._HOSTS, "Kaggle", ("KAGGLE_KERNEL_RUN_TYPE", 8.5, str(tmp_path), str(tmp_path)))
    has([V5E])
    assert find_machine().changes == ()
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    recipe = Recipe.load("gemma3_1b").override(find_machine().changes)
    assert recipe.model.preset == str(tmp_path / parts / "keras" / "gemma3_1b" / "10")
    assert find_machine("gemma2_2b_en").changes == ()
    assert "/gemma3_270m/1" in find_machine("gemma3_270m_zero").changes[0]  # a recipe's name may be another


FALLEN_BACK = {  # a variable or a file that such a machine has, what of it is installed, words of the warning
    "TPU held by another process": ("TPU_ACCELERATOR_TYPE", ["libtpu"], "another process holds it"),
    "TPU without libtpu": ("TPU_ACCELERATOR_TYPE", [], r"pip install 'keras-aha\[tpu\]'"),
    "GPU without a plugin": ("_GPU_FILE", [], r"pip install 'keras-aha\[cuda\]'"),
    "GPU with a plugin": ("_GPU_FILE", ["jax_cuda12_plugin"], "says of its driver"),
    "plugin without a GPU": ("HOME", ["jax_cuda12_plugin"], "says of its driver"),
}


@pytest.mark.parametrize("sign, installed, words", FALLEN_BACK.values(), ids=FALLEN_BACK)
def test_an_accelerator_that_is_not_used_is_said(sign, installed, words, monkeypatch):
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: name in installed)
    if sign == "_GPU_FILE":
        monkeypatch.setattr(machine, sign, __file__)
    else:
        monkeypatch.setenv(sign, "x")
    chosen = jax.config.jax_platforms
    try:
        jax.config.update("jax_platforms", None)
        with pytest.warns(UserWarning, match=f"JAX computes on the CPU, .*{words}"), pytest.raises(ValueError):
            Experiment(Recipe.load("countdown_tiny").override("task.name=nowhere"))  # said before any error
        jax.config.update("jax_platforms", "cpu")
        assert machine.unused_accelerator() is None
    finally:
        jax.config.update("jax_platforms", chosen)


def test_tensorflow_is_given_no_accelerator(monkeypatch):
    hidden = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda devices, kind: hidden.append((devices, kind)))
    importlib.reload(presets)
    assert hidden == [([], "GPU"), ([], "TPU")]


def test_tensorflow_that_has_begun_is_said(monkeypatch):
    def refuse(devices, kind):
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config, "set_visible_devices", refuse)
    with pytest.warns(UserWarning, match="TensorFlow was used before keras_aha"):
        importlib.reload(presets)
