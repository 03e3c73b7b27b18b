import ast
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import FunctionType

import keras_aha

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "keras_aha"
MODULES = sorted(PACKAGE.rglob("*.py"))
# The house: a package imports only packages to its left. What each is stands in CONTRIBUTING.md.
ORDER = tuple("tasks losses models distribution decoding evaluation training callbacks recipes runs planner".split())
FILES = {"__init__.py", "versions.py", "files.py", "names.py"}  # beside the packages; only the first knows them


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def imported(source: str) -> set[str]:
    """Full names of all that `source` imports anywhere, functions included; `from a import b` gives `a.b`."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{'.' * node.level}{node.module}.{alias.name}" for alias in node.names}
    return names


def bad_arrows(source: str, package: str) -> list[str]:
    """Imports of `package` that point to its right, or are of no package."""
    allowed = (*ORDER[: ORDER.index(package) + 1], "files", "names", "versions")
    names = [name.split(".") for name in sorted(imported(source)) if name.startswith((".", "keras_aha"))]
    return [".".join(parts) for parts in names if len(parts) < 2 or parts[1] not in allowed]


def test_the_house_has_eleven_packages_and_four_files_and_contributing_says_what_they_are():
    entries = {path.name for path in PACKAGE.iterdir()} - {"__pycache__", "presets"}
    assert entries == {*ORDER, *FILES}
    assert all(lines_of(PACKAGE / name) <= 70 for name in FILES)
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert tuple(rows) == ORDER


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent != PACKAGE], ids=name_of)
def test_a_package_imports_only_packages_to_its_left(path):
    assert bad_arrows(path.read_text(encoding="utf-8"), path.relative_to(PACKAGE).parts[0]) == []


def test_the_check_sees_bad_arrows():
    assert bad_arrows("def f():\n    import keras_aha.runs.run as r", "recipes") == ["keras_aha.runs.run"]
    assert bad_arrows("from .task import Task\nfrom keras_aha import A", "planner") == [".task.Task", "keras_aha.A"]


LIGHT = {"keras_aha.tasks, keras_aha.evaluation.behaviours, keras_aha.recipes.recipe": set()}
LIGHT |= {"keras_aha.evaluation.tables": {"numpy", "pandas"}, "keras_aha.training.rollout": {"numpy"}}


@pytest.mark.parametrize("modules, heavy", LIGHT.items())
def test_what_importing_modules_loads(modules, heavy):
    known = ["jax", "keras", "keras_hub", "numpy", "pandas", "tensorflow"]
    code = f"import sys, {modules}; print(*[name for name in {known} if name in sys.modules])"
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert set(child.stdout.split()) <= heavy


def undocumented_methods(module) -> list[str]:
    """Public methods and properties of the classes that `module` defines, without a docstring or their base's."""
    return [
        f"{module.__name__}.{name}.{member}"
        for name, cls in vars(module).items()
        if inspect.isclass(cls) and cls.__module__ == module.__name__ and name[0] != "_"
        for member, static in vars(cls).items()
        if member[0] != "_" and isinstance(static, FunctionType | classmethod | staticmethod | property)
        if not inspect.getdoc(getattr(cls, member))
    ]


def test_public_names_exist_and_methods_are_documented():
    """Modules, classes and functions are ruff's: its rules D100, D101 and D103."""
    assert all(getattr(keras_aha, name) for name in keras_aha.__all__)
    assert [undocumented_methods(importlib.import_module(name_of(path))) for path in MODULES] == [[] for _ in MODULES]


def test_the_tests_have_no_more_lines_than_the_package():
    assert sum(map(lines_of, (ROOT / "tests").rglob("*.py"))) <= sum(map(lines_of, MODULES))


def test_no_file_is_longer_than_300_lines():
    assert [path.name for path in (*MODULES, *(ROOT / "scripts").glob("*.py")) if lines_of(path) > 300] == []


def test_the_wheel_packs_every_folder():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in MODULES}
    assert sorted(settings["packages"]) == sorted(folders | {"keras_aha.presets", "keras_aha.scripts"})
    data = {"keras_aha.presets": ["**/*"]}
    for path in sorted(PACKAGE.rglob("*")):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            data.setdefault(".".join(path.parent.relative_to(ROOT).parts), []).append(path.name)
    assert settings["package-data"] == data
    assert settings["package-dir"] == {"keras_aha.presets": "presets", "keras_aha.scripts": "scripts"}
