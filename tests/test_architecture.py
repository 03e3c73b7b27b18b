import ast
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import keras_aha

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "keras_aha"
MODULES = sorted(PACKAGE.rglob("*.py"))
SIDEWAYS = 4  # in this layer rooms do not know each other; `callbacks` is one room a file


def read_layers() -> dict[str, int]:
    """Room → layer, from the table in CONTRIBUTING.md."""
    rows = re.findall(r"^\| (\d) \| ([^|]+) \|", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)
    return {room: int(layer) for layer, rooms in rows for room in re.findall(r"`(\w+)`", rooms)}


LAYERS = read_layers()


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(source: str, module: str, is_package: bool = False) -> set[str]:
    """Full names of all that `source` imports anywhere, functions included; `from a import b` gives `a.b`."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: len(module.split(".")) + is_package - node.level] if node.level else []
            base += [node.module] if node.module else []
            names |= {".".join([*base, alias.name]) for alias in node.names}
    return names


def room_of(name: str) -> str:
    """The room that a full name such as `keras_aha.callbacks.rollout_callback.RolloutCallback` belongs to."""
    parts = name.split(".")[1:]
    return ".".join(parts[: 2 if parts[:1] == ["callbacks"] else 1])


def bad_arrows(source: str, module: str, is_package: bool = False) -> list[str]:
    here = room_of(module)
    layer = LAYERS[here.split(".")[0]]
    bad = []
    for name in sorted(imported(source, module, is_package)):
        if name.split(".")[0] != "keras_aha":
            continue
        there = room_of(name)
        target = LAYERS.get(there.split(".")[0])
        if target is None:
            bad.append(f"{module} → {name}: no room of that name")
        elif target > layer:
            bad.append(f"{module} → {name}: up, from layer {layer} to {target}")
        elif target == layer == SIDEWAYS and there != here and here != "callbacks":  # callbacks/__init__.py may
            bad.append(f"{module} → {name}: sideways in layer {SIDEWAYS}")
    return bad


def test_every_room_has_a_layer():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES} - {"__init__"}
    assert rooms <= LAYERS.keys(), "CONTRIBUTING.md has no row for some rooms"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_arrows_point_down(path):
    if path != PACKAGE / "__init__.py":  # the roof: it exports names of all layers
        assert bad_arrows(path.read_text(encoding="utf-8"), name_of(path), path.name == "__init__.py") == []


@pytest.mark.parametrize(
    "module, source, words",
    [
        ("keras_aha.losses", "from keras_aha.rollout import Rollout", None),
        ("keras_aha.losses", "from keras_aha.lora import adapters_off", None),
        ("keras_aha.losses", "from keras_aha.grpo_model import GRPOModel", "up"),
        ("keras_aha.losses", "def f():\n    import keras_aha.grpo_model as g", "up"),
        ("keras_aha.losses", "from keras_aha import grpo_model", "up"),
        ("keras_aha.losses", "from . import grpo_model", "up"),
        ("keras_aha.losses", "from .grpo_model import GRPOModel", "up"),
        ("keras_aha.losses", "from keras_aha import GRPOModel", "no room"),
        ("keras_aha.losses", "import keras_aha", "no room"),
        ("keras_aha.losses", "from .elsewhere import name", "no room"),
        ("keras_aha.tasks.countdown", "from ..losses import GRPOLoss", "up"),
        ("keras_aha.tasks.countdown", "from .task import Task", None),
        ("keras_aha.callbacks.a", "from keras_aha.callbacks.b import B", "sideways"),
        ("keras_aha.callbacks.a", "from .b import B", "sideways"),
        ("keras_aha.callbacks.a", "from keras_aha.priming import prime", "sideways"),
        ("keras_aha.priming", "from keras_aha.callbacks.a import A", "sideways"),
        ("keras_aha.priming", "from keras_aha.callbacks import A", "sideways"),
        ("keras_aha.callbacks.a", "from keras_aha.experiment import build", "up"),
    ],
)
def test_the_check_sees_bad_arrows(module, source, words):
    bad = bad_arrows(source, module)
    assert bad == [] if words is None else len(bad) == 1 and words in bad[0]


def test_the_check_lets_callbacks_export_its_own():
    assert bad_arrows("from .a import A", "keras_aha.callbacks", is_package=True) == []


@pytest.mark.parametrize("module", ["keras_aha", "keras_aha.tasks", "keras_aha.behaviours", "keras_aha.recipe"])
def test_the_ground_floor_needs_the_standard_library_only(module):
    assert loaded_by(module) == []


@pytest.mark.parametrize("module", ["keras_aha.evaluation", "keras_aha.rollout"])
def test_tables_and_records_need_no_models(module):
    assert set(loaded_by(module)) <= {"numpy", "pandas"}


def loaded_by(module: str) -> list[str]:
    """Which heavy libraries a fresh process has after importing `module`."""
    heavy = ["jax", "keras", "keras_hub", "numpy", "pandas", "tensorflow"]
    code = f"import sys, {module}; print(*[name for name in {heavy} if name in sys.modules])"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()


def undocumented(module) -> list[str]:
    """Public names that `module` defines without a docstring; a method may inherit its base's."""
    missing = [] if module.__doc__ else [module.__name__]
    for name, value in vars(module).items():
        if name.startswith("_") or not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        if value.__module__ != module.__name__:
            continue
        written_by_dataclass = f"{name}("
        if not value.__doc__ or value.__doc__.startswith(written_by_dataclass):
            missing.append(f"{module.__name__}.{name}")
        if inspect.isclass(value):
            members = {member: inspect.getattr_static(value, member) for member in vars(value) if member[0] != "_"}
            missing += [
                f"{module.__name__}.{name}.{member}"
                for member, static in members.items()
                if inspect.isroutine(static) or isinstance(static, property)
                if not inspect.getdoc(getattr(value, member))
            ]
    return missing


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_public_names_are_documented(path):
    if path.name == "__init__.py" and not path.read_text(encoding="utf-8").strip():
        return  # an empty one has nothing to say
    assert undocumented(importlib.import_module(name_of(path))) == []


def test_exported_names_exist():
    assert all(getattr(keras_aha, name) for name in keras_aha.__all__)


def test_the_wheel_packs_every_folder():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in MODULES}
    assert sorted(settings["packages"]) == sorted(folders | {"keras_aha.presets"})
    data = {"keras_aha.presets": ["**/*"]}
    for path in sorted(PACKAGE.rglob("*")):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            data.setdefault(".".join(path.parent.relative_to(ROOT).parts), []).append(path.name)
    assert settings["package-data"] == data
    assert settings["package-dir"] == {"keras_aha.presets": "presets"}
