"""Paths and text files: what is written comes back, whatever Unicode it holds; what is no path here is said."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

from keras_aha.callbacks.checkpoint_callback import CheckpointCallback
from keras_aha.callbacks.completions_callback import CompletionsCallback
from keras_aha.callbacks.doctor_callback import DoctorCallback
from keras_aha.callbacks.run_folder import complete_lines, history_rows, rewind
from keras_aha.evaluation.table_file import read_tables, write_tables
from keras_aha.evaluation.tables import with_behaviours
from keras_aha.files import json_lines, local_path, read_lines, whole_folder, write_whole
from keras_aha.models.gguf import import_gguf
from keras_aha.models.lora import load_adapters
from keras_aha.models.policy import load_policy
from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.values import assignment
from keras_aha.runs.check_files import check_log_dir
from keras_aha.runs.check_folder import check_new_folder
from keras_aha.runs.experiment import with_absolute_paths
from keras_aha.runs.export import export
from keras_aha.runs.prime_preset import prime_preset
from keras_aha.runs.report import write_report
from keras_aha.tasks import Countdown, WordProblems

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import evaluate  # noqa: E402

ENDS = "\u2028 \u2029 \x85 \x0b \x0c \x1c \x1d \x1e \r \x00 \ufeff \r\n"  # which readers of text take for line ends
TEXTS = st.text() | st.lists(st.sampled_from([*ENDS, "a", "\n", '"', ",", "\\"])).map("".join)


# === Text ===


@settings(deadline=None)
@given(st.lists(TEXTS | st.text(st.characters()), min_size=1, max_size=4))
@example([ENDS, "\ud800"])
def test_lines_of_json_come_back(tmp_path_factory, texts):
    """Of completions and of findings, in the reader of both; lone surrogates too, but for those that make a pair."""
    path = tmp_path_factory.getbasetemp() / "records.jsonl"
    records = [{"epoch": epoch, "text": text, text: epoch} for epoch, text in enumerate(texts, 1)]
    path.write_bytes(json_lines(records))
    expected = json.loads(json.dumps(records))
    assert [record for record, _ in complete_lines(path)] == [json.loads(x) for x in read_lines(path)] == expected
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b'{"epoch": 9')  # as an editor and a kill leave it
    assert [record for record, _ in complete_lines(path)] == expected


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4))
@example([ENDS, "", "NA", " a ", "1"])
def test_tables_come_back(tmp_path_factory, texts):
    folder = tmp_path_factory.getbasetemp()
    table = pd.DataFrame({"puzzle": range(len(texts)), "problem": texts, "text": texts, "correct": True, "reward": 0.1})
    tables = with_behaviours(table), with_behaviours(table[::2]).reset_index(drop=True)
    write_tables(folder / "tables.jsonl", *tables)
    for own, back in zip(tables, read_tables(folder / "tables.jsonl"), strict=True):
        pd.testing.assert_frame_equal(back.reset_index(drop=True), own)
    files = SimpleNamespace(csv=folder / "table.csv", parquet=folder / "table.parquet", json=None)
    evaluate.write(files, SimpleNamespace(puzzles=table.set_index("puzzle"), completions=table))
    as_text = {"problem": str, "text": str}
    back = pd.read_csv(files.csv, dtype=as_text, keep_default_na=False)
    pd.testing.assert_frame_equal(back, table, check_dtype=False)
    pd.testing.assert_frame_equal(pd.read_parquet(files.parquet), table)


@settings(deadline=None)
@given(TEXTS)
@example(ENDS)
@example("🙂\x7f")
def test_recipes_come_back(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "recipe.toml"
    recipe = Recipe.load("countdown_tiny").override(assignment("model.preset", text))
    assert recipe.model.preset == text
    recipe.dump(path)
    assert Recipe.load(path) == recipe
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig", newline="\r\n")
    assert Recipe.load(path).lora == recipe.lora


def test_a_history_that_another_program_has_saved(tmp_path):
    path = tmp_path / "history.csv"
    path.write_bytes(b"\xef\xbb\xbfepoch,reward,val_accuracy\r\n1,0.5,\r\n2,0.25,0.5\r\n3,0.5\r\n")
    assert history_rows(path) == [
        dict(epoch="1", reward="0.5", val_accuracy=""),
        dict(epoch="2", reward="0.25", val_accuracy="0.5"),
    ]
    rewind(tmp_path, 1)
    assert path.read_bytes() == b"epoch,reward,val_accuracy\n1,0.5,\n"
    path.write_bytes(b'epoch,reward\n1,"0\r5\xff\n2,1\n')
    assert [row["epoch"] for row in history_rows(path)] == ["1", "2"]


def test_text_in_another_encoding_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"a\nb\n" + "ü".encode("latin-1"))
    with pytest.raises(ValueError, match="Line 3 is not in UTF-8, in which the text must be saved"):
        read_lines(tmp_path / "file")


# === Paths ===

ADDRESSES = ["gs://bucket/x", "s3://bucket/x.jsonl", Path("gs://bucket/x"), "hf://owner/x", "file:///x", ""]
ADDRESSES += ["~no-such-user/x", "a\0b", "a\udcff"]


@pytest.mark.parametrize("path", ADDRESSES)
def test_what_is_no_path_of_this_machine(path):
    with pytest.raises(ValueError, match="^`out` must be a path of this machine: .*Received: out="):
        local_path(path, "out")


def test_paths_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/a b") == tmp_path / "a b" and local_path(Path("~")) == tmp_path
    for path in ("a/b", "/a:b/c", "it's 50% “ü” 🙂", "./~", "C:/a", tmp_path):
        assert local_path(path) == Path(path)


RECIPE = Recipe.load("countdown_tiny")
TAKERS = {
    "callbacks": CheckpointCallback,
    "completions": CompletionsCallback,
    "doctor": DoctorCallback,
    "check": lambda path: check_log_dir(path, RECIPE),
    "write_report": write_report,
    "export": lambda path: export(path, "out"),
    "export to": lambda path: export("run", path),
    "prime": lambda path: prime_preset(RECIPE, path),
    "import": lambda path: import_gguf(path, "out"),
    "adapters": lambda path: load_policy("countdown_tiny", adapters=path),
    "load_adapters": lambda path: load_adapters(load_policy("countdown_tiny").backbone, path),
    "preset": lambda path: load_policy(str(path)),
    "recipe": lambda path: Recipe.load(f"{path}.toml"),
    "lora.start": lambda path: with_absolute_paths(RECIPE.override(assignment("lora.start", str(path)))),
    "puzzles": lambda path: Countdown(puzzles=path),
    "word problems": lambda path: WordProblems(path),
    "tables": read_tables,
    "write_tables": lambda path: write_tables(path, pd.DataFrame(), pd.DataFrame()),
    "dump": RECIPE.dump,
    "write": lambda path: write_whole(path, ""),
}


@pytest.mark.parametrize("take", TAKERS.values(), ids=TAKERS)
@pytest.mark.parametrize("path", ["gs://bucket/x", Path("s3://bucket/x")], ids=str)
def test_whatever_takes_a_path_refuses_an_address(take, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="must be a path of this machine: mount what the address names, or copy it"):
        take(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["x" * 256, f"new/{'x' * 256}", "/".join(["x" * 200] * 21)])
def test_names_that_are_too_long_are_said_before_work(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="cannot be made: File name too long. Received: out="):
        check_new_folder(path, "out")
    check_new_folder("x" * 255, "out")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_there_when_it_is_whole_and_touches_no_other(tmp_path):
    others = [f"part-{'x' * 250}", "part-new", ".new", "new.part"]
    for name in others:
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
    for path in (tmp_path / "new", tmp_path / ("x" * 255), tmp_path / "parent" / "new"):
        with whole_folder(path) as part:
            (part / "file").touch()
            assert not path.exists()
        assert os.listdir(path) == ["file"] and path.stat().st_mode == (tmp_path / "new").stat().st_mode
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "broken") as part:
        raise KeyboardInterrupt
    assert {path.name for path in tmp_path.iterdir()} == {*others, "new", "parent", "x" * 255}
    assert all(os.listdir(tmp_path / name) == ["mine"] for name in others)
