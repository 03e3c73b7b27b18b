"""The manual builds, and every fenced block of it and of the README works, by the comment right before it.

Without one it is executed; `smaller: old → new, …` makes it take seconds. `needs: a TPU`, …: it is compiled, flags and
changes are parsed. `code: …`: it is compared with the code. `newcomer: …`: continuous integration runs it.
"""

import ast
import importlib
import re
import shlex
import sys
import tomllib
from collections import namedtuple
from pathlib import Path

from keras_aha.files import presets_folder
from keras_aha.models import gguf
from keras_aha.recipes.recipe import Recipe

import pytest
from sphinx.cmd.build import build_main

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "docs"), str(ROOT / "scripts")]
import quotes  # noqa: E402

PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)]
RECIPES = {path.stem for path in presets_folder().glob("*.toml")}
NEEDS = {"a TPU", "a GPU", "a download", "the network", "several hosts", "minutes"}
PACKAGES = {name.replace("_", "-") for name in gguf.PACKAGES.values()}  # of weights, which the user installs
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
BUILD = ["sphinx-build", "-W", "--keep-going", "-n", "docs", "docs/_build"]
# A fenced block of a page; kind and what are of the comment right before it.
Block = namedtuple("Block", "page line language code kind what")
BLOCK = re.compile(r"(?:^ *<!-- (\w+): (.+) -->\n)?^( *)```(.*)\n((?:.*\n)*?) *```$", re.MULTILINE)


def blocks_of(page: Path):
    text, name = page.read_text(encoding="utf-8"), str(page.relative_to(ROOT))
    for match in BLOCK.finditer(text):
        kind, what, indent, language, code = match.groups(default="")
        line = text.count("\n", 0, match.start(3)) + 1
        yield Block(name, line, language, code.removeprefix(indent).replace(f"\n{indent}", "\n"), kind, what)


BLOCKS = {f"{block.page}:{block.line}": block for page in PAGES for block in blocks_of(page)}


def executed(language: str, page: str | None = None) -> list[Block]:
    those = [block for block in BLOCKS.values() if block.language == language and block.kind in ("", "smaller")]
    return [block for block in those if page in (None, block.page)]


def commands(code: str):
    """The words of each command of a shell block."""
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


def script(words: list[str]):
    """The script that a command runs, or None."""
    return importlib.import_module(Path(words[1]).stem) if words[1:] and words[1].startswith("scripts/") else None


@pytest.mark.parametrize("place", BLOCKS)
def test_a_block_is_of_a_kind_that_is_tested(place):
    block = BLOCKS[place]
    assert block.language in ("python", "sh", "toml", "text") or block.language.startswith("{")  # Sphinx's
    assert block.kind in ("", "smaller", "code", "newcomer") or set(block.what.split(" and ")) <= NEEDS
    if block.language == "python" and block.kind == "needs":
        compile(block.code, place, "exec")
    if block.language == "toml":
        least = {"model": {"preset": "countdown_tiny"}, "task": {"name": "countdown"}}
        recipe = tomllib.loads(block.code)
        Recipe.from_dict((least if "tasks" not in recipe else {"model": least["model"]}) | recipe)


@pytest.mark.parametrize("place", [place for place, block in BLOCKS.items() if block.language == "sh"])
def test_its_flags_are_those_of_the_scripts(place):
    for words in commands(BLOCKS[place].code):
        if words[:2] == ["pip", "install"]:
            assert words[2:4] == ["-q", "-e"] and set(words[5:]) <= PACKAGES
            assert set(re.findall(r"\w+", words[4])) <= set(EXTRAS)
        elif script(words):
            args = vars(script(words).parse(words[2:]))
            name = args["recipe"] if args.get("recipe") in RECIPES else "countdown_tiny"
            Recipe.load(name).override(args.get("set") or [])


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_what_a_page_quotes_is_the_code(page):
    text = page.read_text(encoding="utf-8")
    assert quotes.rewritten(text) == text, "run `python docs/quotes.py`"


@pytest.mark.parametrize("page", ["README.md", "docs/running.md"])
def test_the_example_is_the_default_recipe(page):
    """So what the page says of the default run holds for its example."""
    recipe, given, literal = Recipe.load("countdown_tiny"), {}, ast.literal_eval
    (code,) = (block.code for block in executed("python", page) if "model.fit(" in block.code)
    for call in (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)):
        words = {word.arg: literal(word.value) for word in call.keywords if isinstance(word.value, ast.Constant)}
        numbers = [literal(value) for value in call.args if isinstance(value, ast.Constant)]
        given[ast.unparse(call.func).split(".")[-1]] = words, *numbers
    (schedule, rate), (adam,) = given["PolynomialDecay"], given["Adam"]
    assert schedule.pop("decay_steps") == given["fit"][0]["epochs"] == recipe.training.epochs
    decay = {"class_name": "PolynomialDecay", "config": schedule | {"initial_learning_rate": rate}}
    assert adam | {"learning_rate": decay} == recipe.optimizer.config
    assert given["Countdown"][0] == recipe.task.arguments
    assert type(recipe.rollouts)(**given["RolloutCallback"][0]) == recipe.rollouts
    assert type(recipe.loss)(**given["GRPOLoss"][0]) == recipe.loss
    assert given["load_policy"] == ({"lora_rank": recipe.lora.rank}, recipe.model.preset)
    assert given["GRPOModel"][0] == {"micro_batch_size": recipe.training.micro_batch_size}
    assert given["EvaluateCallback"][0] == {"every": recipe.evaluation.every}
    assert f"task.held_out({recipe.evaluation.puzzles})" in code


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({block.page for block in executed("python")}))
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nothing can be downloaded
    names = {"__name__": "__main__"}
    for block in executed("python", page):
        code = block.code
        for old, new in (change.split(" → ") for change in block.what.split(", ") if block.kind):
            assert old in code
            code = code.replace(old, new)
        exec(compile("\n" * block.line + code, ROOT / page, "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({block.page for block in executed("sh")}))
def test_commands_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [words for block in executed("sh", page) for words in commands(block.code)]
    assert page != "README.md" or BUILD in lines
    for words in lines:
        if words == BUILD:
            assert build_main([*BUILD[1:-2], str(ROOT / "docs"), str(tmp_path / "manual")]) == 0
        elif words[0] != "pip":
            assert script(words).main(words[2:]) == 0


@pytest.mark.slow
def test_the_build_fails_on_what_is_missing_or_broken(tmp_path, monkeypatch, capfd):
    (tmp_path / "index.md").write_text(
        "# Broken\n\n[no page](nowhere.md), [no heading](#nowhere), {py:class}`keras_aha.Nothing`, $\\nonsense$\n\n"
        "```{toctree}\nnowhere\n```\n\n```{eval-rst}\n.. autofunction:: a_module.bare\n```\n"
    )
    (tmp_path / "a_module.py").write_text("def bare():\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert build_main([*BUILD[1:-2], "-c", str(ROOT / "docs"), str(tmp_path), str(tmp_path / "out")]) != 0
    said = capfd.readouterr().err
    for kind in ("xref_missing", "ref.class", "aha.formula", "toc.not_readable", "aha.undocumented", "nowhere.md"):
        assert kind in said
    assert "keras_aha.losses.group_advantages is public and has no place" in said


@pytest.mark.parametrize("page", [*PAGES, *sorted(ROOT.glob("[CL]*.md"))], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?://)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        assert anchor in ["", *(re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles)], link
