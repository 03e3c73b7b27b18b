"""What is written comes back, whatever Unicode it holds; what is no path of this machine is said."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import keras_aha as aha
from keras_aha.callbacks.run_folder import complete_lines, history_rows, rewind
from keras_aha.evaluation.table_file import read_tables, write_tables
from keras_aha.evaluation.tables import with_behaviours
from keras_aha.files import json_lines, local_path, whole_folder
from keras_aha.models.gguf import import_gguf
from keras_aha.recipes.values import assignment
from keras_aha.runs.check_folder import check_new_folder
from keras_aha.runs.conditions import conditions
from keras_aha.runs.prime_preset import prime_preset

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import evaluate  # noqa: E402

ENDS = "\u2028 \u2029 \x85 \x0b \x0c \x1c \x1d \x1e \r \x00 \ufeff \r\n"  # which readers of text take for line ends
TEXTS = st.text() | st.lists(st.sampled_from([*ENDS, "a", "\n", '"', ",", "\\"])).map("".join)
RECIPE = aha.Recipe.load("countdown_tiny")


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4), st.text(st.characters()))
@example([ENDS, "", "NA", " a ", "1", "🙂\x7f"], "\ud800")
def test_what_is_written_comes_back(tmp_path_factory, texts, text):
    """Completions and findings, tables of an evaluation in each of their formats, recipes."""
    folder = tmp_path_factory.getbasetemp()
    records = json.loads(json.dumps([{"epoch": 1, "text": x, x: 1} for x in [*texts, text]]))  # pairs of surrogates
    content = b"\xef\xbb\xbf" + json_lines(records) + b'{"epoch": 9'  # as an editor and a kill leave it
    (folder / "lines.jsonl").write_bytes(content)
    assert [record for record, _ in complete_lines(folder / "lines.jsonl")] == records

    table = pd.DataFrame({"puzzle": range(len(texts)), "problem": texts, "text": texts, "correct": True, "reward": 0.1})
    tables = with_behaviours(table), with_behaviours(table[::2]).reset_index(drop=True)
    write_tables(folder / "tables.jsonl", *tables)
    judged = tables[0].assign(reward_a=[None, *[0.5] * (len(texts) - 1)]).astype({"reward_a": float}), tables[1]
    write_tables(folder / "judged.jsonl", *judged)  # in which a reward failed, and greedy ones were not judged
    own_and_back = [*zip(tables, read_tables(folder / "tables.jsonl"), strict=True)]
    own_and_back += zip(judged, read_tables(folder / "judged.jsonl"), strict=True)
    for own, back in own_and_back:
        pd.testing.assert_frame_equal(back.reset_index(drop=True), own)
    files = SimpleNamespace(csv=folder / "table.csv", parquet=folder / "table.parquet", json=None)
    numbers = {"made_with": conditions(RECIPE, "recipe")}
    evaluate.write(files, SimpleNamespace(numbers=numbers, puzzles=table.set_index("puzzle"), completions=table))
    back = pd.read_csv(files.csv, dtype={"problem": str, "text": str}, keep_default_na=False).drop(columns="made_with")
    pd.testing.assert_frame_equal(back, table, check_dtype=False)
    pd.testing.assert_frame_equal(pd.read_parquet(files.parquet), table)

    recipe = RECIPE.override(assignment("model.preset", texts[-1]))
    assert recipe.model.preset == texts[-1]
    recipe.dump(folder / "recipe.toml")
    (folder / "recipe.toml").write_bytes(b"\xef\xbb\xbf" + (folder / "recipe.toml").read_bytes())
    assert aha.Recipe.load(folder / "recipe.toml") == recipe


def test_a_history_that_another_program_has_saved(tmp_path):
    path = tmp_path / "history.csv"
    path.write_bytes(b'\xef\xbb\xbfepoch,"a,b"\r\n1,0.5\r\n2,\r\n3\r\n')
    assert history_rows(path) == [{"epoch": "1", "a,b": "0.5"}, {"epoch": "2", "a,b": ""}]
    rewind(tmp_path, 1)
    assert path.read_bytes() == b'epoch,"a,b"\n1,0.5\n'
    path.write_bytes(b'epoch,reward\n1,"0\r5\xff\n' + 200_000 * b"\0" + b"\n2,1\n")
    assert [row["epoch"] for row in history_rows(path)] == ["1", "2"]


# === Paths ===


def test_paths_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/a b") == tmp_path / "a b" and local_path(Path("~")) == tmp_path
    for path in ("a/b", "/a:b/c", "it's 50% “ü” 🙂", "./~", "C:/a", tmp_path):
        assert local_path(path) == Path(path)
    for path in ("gs://a/b", Path("s3://a/b"), "hf://a/b", "file:///a", "", "~no-such-user/a", "a\0b", "a\udcff"):
        with pytest.raises(ValueError, match="^`out` must be a path of this machine: .*Received: out="):
            local_path(path, "out")


TAKERS = {
    "checkpoints": aha.CheckpointCallback,
    "completions": aha.CompletionsCallback,
    "doctor": aha.DoctorCallback,
    "report": aha.write_report,
    "export": lambda path: aha.export(path, "out"),
    "out": lambda path: aha.export("run", path),
    "prime": lambda path: prime_preset(RECIPE, path),
    "import": lambda path: import_gguf(path, "out"),
    "adapters": lambda path: aha.load_policy("countdown_tiny", adapters=path),
    "preset": lambda path: aha.load_policy(str(path)),
    "recipe": lambda path: aha.Recipe.load(f"{path}.toml"),
    "puzzles": lambda path: aha.tasks.Countdown(puzzles=path),
    "file": aha.tasks.Rows,
    "tables": read_tables,
    "dump": RECIPE.dump,
}


@pytest.mark.parametrize("take", TAKERS.values(), ids=TAKERS)
def test_whatever_takes_a_path_refuses_an_address(take, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("gs://bucket/x", Path("gs://bucket/x")):
        with pytest.raises(ValueError, match="must be a path of this machine: mount what the address names, or copy"):
            take(path)
    assert not list(tmp_path.iterdir())


def test_names_that_are_too_long_are_said_before_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("x" * 256, f"new/{'x' * 256}", "/".join(["x" * 200] * 21)):
        with pytest.raises(ValueError, match="cannot be made: File name too long. Received: out="):
            check_new_folder(path, "out")
    check_new_folder("x" * 255, "out")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_there_when_it_is_whole_and_touches_no_other(tmp_path):
    (tmp_path / "part-new" / "mine").mkdir(parents=True)
    for path in (tmp_path / "new", tmp_path / ("x" * 255)):
        with whole_folder(path) as part:
            (part / "file").touch()
            assert not path.exists()
        assert os.listdir(path) == ["file"] and path.stat().st_mode == (tmp_path / "part-new").stat().st_mode
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "broken"):
        raise KeyboardInterrupt
    assert sorted(os.listdir(tmp_path)) == ["new", "part-new", "x" * 255]
    assert os.listdir(tmp_path / "part-new") == ["mine"]
