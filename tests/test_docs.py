"""The manual: its pages build, and what stands in a fenced block of it, or of the README, works.

A block is executed, unless a comment right before it says what it needs, from a short list. Python blocks of a page run
in order in one fresh process, shell blocks in order in a copy of the repository. What is not executed is still read:
Python is compiled, and each flag and each change of a recipe is parsed by the script that is named.
"""

import dataclasses
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from keras_aha.files import presets_folder
from keras_aha.models import gguf
from keras_aha.recipes.recipe import Recipe

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "_build" not in page.parts]
NEEDS = {"a TPU", "a GPU", "a download", "the network", "several hosts", "minutes"}
NEWCOMER = "newcomer"  # run from a clean clone by whoever starts, and by continuous integration
PACKAGES = {name.replace("_", "-") for name in gguf.PACKAGES.values()}  # of weights, that the user installs
COPIED = ("README.md", "LOG.md", "pyproject.toml", "docs", "keras_aha", "notebooks", "presets", "scripts")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]

# As `pip install -q -e ".[extra]"` of a README line, in an environment where everything is installed.
PIP = '#!/bin/sh\n[ "$1 $2 $3" = "install -q -e" ] && [ $# = 4 ]\n'


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page; `marker` is the comment right before it, without its dashes."""

    page: str
    line: int
    language: str
    code: str
    marker: str

    @property
    def executed(self) -> bool:
        return not self.marker and not self.language.startswith("{")

    def __str__(self):
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    lines, blocks, opened = page.read_text(encoding="utf-8").splitlines(), [], None
    for number, line in enumerate(lines):
        fence = re.match(r"( *)```(.*)$", line)
        if not fence:
            continue
        if opened is None:
            opened = number, fence[1], fence[2].strip()
            continue
        begin, indent, language = opened
        code = "".join(f"{inner.removeprefix(indent)}\n" for inner in lines[begin + 1 : number])
        marker = re.fullmatch(r"\s*<!-- (.*) -->", lines[begin - 1] if begin else "")
        name = str(page.relative_to(ROOT))
        blocks.append(Block(name, begin + 1, language, code, marker[1] if marker else ""))
        opened = None
    assert opened is None, f"{page} has a block that does not end"
    return blocks


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def those(language: str, executed: bool) -> list[Block]:
    return [block for block in BLOCKS if block.language == language and block.executed == executed]


# === Each block is of a kind that is checked ===


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_it_is_executed_or_says_what_it_needs(block):
    kind, _, what = block.marker.partition(": ")
    if block.language.startswith("{"):
        return  # Sphinx's, which the manual's own build executes
    assert block.language in ("python", "sh", "toml"), "nothing would look at it"
    assert not kind or kind == NEWCOMER or (kind == "needs" and set(what.split(" and ")) <= NEEDS)


def commands(code: str):
    """Words of each command in a shell block."""
    for line in code.replace("\\\n", " ").splitlines():
        words: list[str] = []
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&;|")
        lexer.whitespace_split = True
        for token in [*lexer, ";"]:
            if token and set(token) <= set("&;|"):
                yield words
                words = []
            else:
                words.append(token)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "sh"], ids=str)
def test_its_flags_are_those_of_the_scripts(block, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    for words in commands(block.code):
        if words[:2] == ["pip", "install"]:
            assert words[2:4] == ["-q", "-e"] and set(words[5:]) <= PACKAGES
            extras = re.fullmatch(r"\.(?:\[([\w,]+)\])?", words[4])
            assert extras and (extras[1] is None or set(extras[1].split(",")) <= set(EXTRAS))
        elif words[:1] == ["python"] and words[1].startswith("scripts/"):
            script = importlib.import_module(Path(words[1]).stem)
            args = vars(script.parse(words[2:]))
            name = args.get("recipe") or "countdown_tiny"
            known = (presets_folder() / f"{name}.toml").is_file()
            Recipe.load(name if known else "countdown_tiny").override(args.get("set", []))


@pytest.mark.parametrize("block", those("python", executed=False), ids=str)
def test_python_that_is_not_executed_compiles(block):
    compile(block.code, str(block), "exec")


@pytest.mark.parametrize("block", those("toml", executed=True), ids=str)
def test_a_recipe_loads(block):
    least = {"model": {"preset": "countdown_tiny"}, "task": {"name": "countdown"}}
    Recipe.from_dict(least | tomllib.loads(block.code))


# === Executed, two at a time ===


def environment(folder: Path, repository: Path) -> dict[str, str]:
    """Nothing can be downloaded, and `pip install` of the repository is done already."""
    shims = folder / "shims"
    shims.mkdir()
    (shims / "pip").write_text(PIP)
    (shims / "pip").chmod(0o755)
    path = os.pathsep.join([str(shims), str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {
        "PATH": path,
        "PYTHONPATH": str(repository),
        "JAX_PLATFORMS": "cpu",
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }


BROKEN = {
    "index.md": """# Broken

[no page](nowhere.md), [no heading](#nowhere), {py:class}`keras_aha.Nothing`, $\\nonsense$

```{toctree}
nowhere
```

```{recipe-keys} nothing
```

```{eval-rst}
.. autofunction:: module.bare
```
""",
    "module.py": "def bare():\n    pass\n",
}
COMPLAINTS = {
    "a link to no page": "nowhere.md",
    "a link to no heading": "xref_missing",
    "a name that is not there": "ref.class",
    "a formula": "aha.formula",
    "a page that is not there": "toc.not_readable",
    "a table of nothing": "aha.keys",
    "a name without a docstring": "aha.undocumented",
    "a public name without a place": "keras_aha.losses.group_advantages is public and has no place",
}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Page and language → the future of their process, one for all blocks of both."""
    folder = tmp_path_factory.mktemp("docs")
    repository = folder / "repository"
    repository.mkdir()
    skip = shutil.ignore_patterns("_build", "__pycache__")
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, repository / name, **({"ignore": skip} if copy is shutil.copytree else {}))
    names = environment(folder, repository)

    def run(command, cwd, **changes):
        settings = dict(capture_output=True, text=True, encoding="utf-8", timeout=600)
        return subprocess.run(command, cwd=cwd, env=names | changes, **settings)

    def python(page):
        cwd = folder / page.replace("/", "-")
        cwd.mkdir()
        lines: list[str] = []  # a traceback names the page's own lines
        for block in blocks_of(ROOT / page):
            if block.executed and block.language == "python":
                lines += [""] * (block.line - len(lines)) + block.code.splitlines()
        (cwd / "page.py").write_text("\n".join(lines), encoding="utf-8")
        return run([sys.executable, "page.py"], cwd)

    def shell(page):
        code = "".join(block.code for block in those("sh", executed=True) if block.page == page)
        return run(["bash", "-euo", "pipefail", "-c", code], repository)

    def broken():
        source = folder / "broken"
        source.mkdir()
        for name, text in BROKEN.items():
            (source / name).write_text(text, encoding="utf-8")
        flags = ["-W", "--keep-going", "-n", "-c", str(ROOT / "docs")]
        path = os.pathsep.join([str(repository), str(source)])
        return run(["sphinx-build", *flags, str(source), str(folder / "out")], folder, PYTHONPATH=path)

    pool = ThreadPoolExecutor(2)
    started = {(page, "sh"): pool.submit(shell, page) for page in pages_with("sh")}
    started |= {(page, "python"): pool.submit(python, page) for page in pages_with("python")}
    yield started | {"broken": pool.submit(broken)}
    pool.shutdown(cancel_futures=True)  # where few tests are asked for, not all of them are needed


def pages_with(language: str) -> list[str]:
    return sorted({block.page for block in those(language, executed=True)})


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("sh"))
def test_shell_blocks_run(page, jobs):
    done = jobs[page, "sh"].result()
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("python"))
def test_python_blocks_run(page, jobs):
    done = jobs[page, "python"].result()
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_the_build_fails_on_what_is_missing_or_broken(jobs):
    done = jobs["broken"].result()
    assert done.returncode != 0
    assert {what for what, words in COMPLAINTS.items() if words not in done.stderr} == set()


def test_the_readme_builds_the_manual():
    """So that the test of its shell blocks is one of the build."""
    build = ["sphinx-build", "-W", "--keep-going", "-n", "docs", "docs/_build"]
    assert any(build in list(commands(block.code)) for block in those("sh", executed=True) if block.page == "README.md")


# === Links of the README, which Sphinx does not read ===


def headings(path: Path) -> set[str]:
    found = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "LOG.md"])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?://)([^)]+)\)", text):
        path, _, anchor = link.partition("#")
        assert (ROOT / path).exists(), link
        assert not anchor or anchor in headings(ROOT / path), link
