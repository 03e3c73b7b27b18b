"""The manual builds, and every fenced block of it and of the README works.

A comment right before a block says how it is tested:

| comment | test |
|---|---|
| none | the block is executed: Python here, a command of a script by the script's `main` |
| `smaller: old → new, …` | it is executed with these changes, so that it takes seconds |
| `needs: a TPU`, … | Python is compiled; flags and changes of recipes are parsed |
| `code: …` | it is compared with the code, as the tables of keys are |
| `newcomer: …` | continuous integration runs it from a clean clone |
"""

import ast
import dataclasses
import importlib
import re
import shlex
import sys
import tomllib
from pathlib import Path

from keras_aha.files import presets_folder
from keras_aha.models import gguf
from keras_aha.recipes.recipe import Recipe

import pytest
from sphinx.cmd.build import build_main

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "docs"), str(ROOT / "scripts")]
import _cli  # noqa: E402
import quotes  # noqa: E402

PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)]
NEEDS = {"a TPU", "a GPU", "a download", "the network", "several hosts", "minutes"}
PACKAGES = {name.replace("_", "-") for name in gguf.PACKAGES.values()}  # of weights, which the user installs
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
BUILD = ["sphinx-build", "-W", "--keep-going", "-n", "docs", "docs/_build"]


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page; `kind` and `what` are of the comment right before it."""

    page: str
    line: int
    language: str
    code: str
    kind: str
    what: str

    @property
    def executed(self) -> bool:
        return self.kind in ("", "smaller") and not self.language.startswith("{")

    def __str__(self):
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text, name = page.read_text(encoding="utf-8"), str(page.relative_to(ROOT))
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) % 2 == 0, f"{page} has a block that does not end"
    pattern = r"(?:^ *<!-- (\w+): (.+) -->\n)?^( *)```(.*)\n((?:.*\n)*?) *```$"
    return [
        Block(name, text.count("\n", 0, m.start(3)) + 1, m[4], m[5].replace("\n" + m[3], "\n"), m[1] or "", m[2] or "")
        for m in re.finditer(pattern, text, re.MULTILINE)
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def those(language: str, executed: bool = True) -> list[Block]:
    return [block for block in BLOCKS if block.language == language and block.executed == executed]


def commands(code: str):
    """The words of each command in a shell block."""
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&;|")
        lexer.whitespace_split = True
        words: list[str] = []
        for token in [*lexer, ";"]:
            if token and set(token) <= set("&;|"):
                yield words
                words = []
            else:
                words.append(token)


def is_script(words: list[str]) -> bool:
    return words[:1] == ["python"] and words[1].startswith("scripts/")


# === What is not executed ===


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_is_of_a_kind_that_is_tested(block):
    assert block.language in ("python", "sh", "toml", "text", "{eval-rst}", "{include} ../LOG.md") or (
        block.language in ("{include} ../README.md", "{toctree}") and block.page == "docs/index.md"
    )
    assert block.kind in ("", "smaller", "code", "newcomer") or (
        block.kind == "needs" and set(block.what.split(" and ")) <= NEEDS
    )
    if block.language == "python" and block.kind == "needs":
        compile(block.code, str(block), "exec")


@pytest.mark.parametrize("block", those("sh") + those("sh", executed=False), ids=str)
def test_its_flags_are_those_of_the_scripts(block):
    for words in commands(block.code):
        if words[:2] == ["pip", "install"]:
            assert words[2:4] == ["-q", "-e"] and set(words[5:]) <= PACKAGES
            extras = re.fullmatch(r"\.(?:\[([\w,]+)\])?", words[4])
            assert extras and (extras[1] is None or set(extras[1].split(",")) <= set(EXTRAS))
        elif is_script(words):
            args = vars(importlib.import_module(Path(words[1]).stem).parse(words[2:]))
            name = args.get("preset") or args.get("recipe") or "countdown_tiny"
            known = (presets_folder() / f"{name}.toml").is_file()
            _cli.load_recipe(name if known else "countdown_tiny", args.get("set") or [])


@pytest.mark.parametrize("block", those("toml"), ids=str)
def test_a_recipe_loads(block):
    least = {"model": {"preset": "countdown_tiny"}, "task": {"name": "countdown"}}
    Recipe.from_dict(least | tomllib.loads(block.code))


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_what_it_quotes_is_the_code(page):
    text = page.read_text(encoding="utf-8")
    assert quotes.rewritten(text) == text, "run `python docs/quotes.py`"


@pytest.mark.parametrize("page", ["README.md", "docs/running.md"])
def test_the_example_is_the_default_recipe(page):
    """So what the page says of the default run holds for its example."""
    recipe = Recipe.load("countdown_tiny")
    (code,) = (block.code for block in those("python") if block.page == page and "model.fit(" in block.code)
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    given = {}
    for call in calls:
        literals = {word.arg: word.value.value for word in call.keywords if isinstance(word.value, ast.Constant)}
        given[ast.unparse(call.func).split(".")[-1]] = literals
    (first,) = (call.args[0].value for call in calls if ast.unparse(call.func).endswith(".PolynomialDecay"))
    schedule = given["PolynomialDecay"] | {"initial_learning_rate": first}
    assert schedule.pop("decay_steps") == given["fit"]["epochs"] == recipe.training.epochs
    config = given["Adam"] | {"learning_rate": {"class_name": "PolynomialDecay", "config": schedule}}
    assert recipe.optimizer.config == config
    assert given["Countdown"] == recipe.task.arguments
    assert type(recipe.rollouts)(**given["RolloutCallback"]) == recipe.rollouts
    assert type(recipe.loss)(**given["GRPOLoss"]) == recipe.loss
    assert given["load_policy"] == {"lora_rank": recipe.lora.rank}
    assert given["GRPOModel"] == {"micro_batch_size": recipe.training.micro_batch_size}
    assert given["EvaluateCallback"] == {"every": recipe.evaluation.every}
    assert f"task.held_out({recipe.evaluation.puzzles})" in code


# === What is executed ===


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({block.page for block in those("python")}))
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nothing can be downloaded
    names = {"__name__": "__main__"}
    for block in (block for block in those("python") if block.page == page):
        code = block.code
        for change in block.what.split(", ") if block.kind == "smaller" else ():
            old, new = change.split(" → ")
            assert old in code, change
            code = code.replace(old, new)
        exec(compile("\n" * block.line + code, ROOT / page, "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({block.page for block in those("sh")} - {"README.md"}))
def test_commands_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (words for block in those("sh") if block.page == page for words in commands(block.code)):
        assert is_script(words), "nothing would execute this"
        assert importlib.import_module(Path(words[1]).stem).main(words[2:]) == 0


@pytest.mark.slow
def test_the_readmes_command_builds_the_manual(tmp_path, monkeypatch):
    (block,) = (block for block in those("sh") if block.page == "README.md")
    assert BUILD in commands(block.code)
    monkeypatch.chdir(ROOT)
    assert build_main([*BUILD[1:-1], str(tmp_path)]) == 0


BROKEN = """# Broken

[no page](nowhere.md), [no heading](#nowhere), {py:class}`keras_aha.Nothing`, $\\nonsense$

```{toctree}
nowhere
```

```{eval-rst}
.. autofunction:: a_module.bare
```
"""
COMPLAINTS = {
    "a link to no page": "nowhere.md",
    "a link to no heading": "xref_missing",
    "a name that is not there": "ref.class",
    "a formula": "aha.formula",
    "a page that is not there": "toc.not_readable",
    "a name without a docstring": "aha.undocumented",
    "a public name without a place": "keras_aha.losses.group_advantages is public and has no place",
}


@pytest.mark.slow
def test_the_build_fails_on_what_is_missing_or_broken(tmp_path, monkeypatch, capfd):
    (tmp_path / "index.md").write_text(BROKEN, encoding="utf-8")
    (tmp_path / "a_module.py").write_text("def bare():\n    pass\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert build_main([*BUILD[1:-2], "-c", str(ROOT / "docs"), str(tmp_path), str(tmp_path / "out")]) != 0
    said = capfd.readouterr().err
    assert {what for what, words in COMPLAINTS.items() if words not in said} == set()


# === Links of the pages that Sphinx does not read ===


def headings(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, *sorted(ROOT.glob("[CL]*.md"))], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?://)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link
