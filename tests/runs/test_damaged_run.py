"""Files of a run that are damaged, as a table: `--resume` says so in a sentence, before anything is loaded."""

import json
import sys
from pathlib import Path

from keras_aha.callbacks.run_folder import rewind
from keras_aha.evaluation.table_file import write_tables
from keras_aha.evaluation.tables import with_behaviours
from keras_aha.recipes.recipe import Recipe
from keras_aha.runs.check_files import check_run, finished_epochs, saved_epochs

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import fit  # noqa: E402

HEADER = "epoch,reward,generated_tokens,val_accuracy,epoch_seconds\n"
ROWS = [f"{epoch},0.5,{100 * epoch},{'' if epoch % 2 else 0.25},1.5\n" for epoch in range(1, 5)]


@pytest.fixture(scope="module")
def recipe(make_policy, tmp_path_factory):
    """With a preset without weights: what came after they are loaded would not be said."""
    preset = tmp_path_factory.mktemp("presets") / "weightless"
    make_policy().save_to_preset(str(preset))
    (preset / "model.weights.h5").unlink()
    return Recipe.load("countdown_tiny").override(
        [f'model.preset="{preset}"', "training.epochs=4", "evaluation.puzzles=3", "evaluation.samples=2"]
    )


@pytest.fixture
def folder(recipe, tmp_path):
    """Of a run with checkpoints of its epochs 1 to 3, killed as it wrote of the fourth."""
    folder = tmp_path / "run"
    folder.mkdir()
    recipe.dump(folder / "recipe.toml")
    for name in ("1", "2", "3", "4.orbax-checkpoint-tmp"):
        (folder / "saved_epochs" / name).mkdir(parents=True)
    rows = [{"puzzle": puzzle, "text": "1+1=2 no", "correct": False} for puzzle in (0, 0, 1, 1, 2, 2)]
    tables = [with_behaviours(pd.DataFrame(some)) for some in (rows, rows[::2])]
    write_tables(folder / "held_out_before.jsonl", *tables)
    (folder / "history.csv").write_text(HEADER + "".join(ROWS)[:-9])
    (folder / "completions.jsonl").write_text("".join(f'{{"epoch": {epoch}}}\n' for epoch in range(1, 5))[:-5])
    return folder


def edit(name, change):
    def damage(folder):
        content = (folder / name).read_text()
        assert change(content) != content
        (folder / name).write_text(change(content))

    return damage


def put(name, content):
    return lambda folder: (folder / name).write_bytes(content)


REMOVE_SUMMARY = "summary.json is no summary of a run: remove it, and it is written again. Received: "
REMOVE_HELD_OUT = "held-out puzzles before training: remove it, and it is made again. Received: "
TABLE = {
    "summary, text": (put("summary.json", b"x"), REMOVE_SUMMARY),
    "summary, lacking": (put("summary.json", b"{}"), REMOVE_SUMMARY + "KeyError('epochs')"),
    "summary, null": (put("summary.json", b'{"epochs": null}'), REMOVE_SUMMARY),
    "held out, cut": (edit("held_out_before.jsonl", lambda text: text[:-20]), REMOVE_HELD_OUT),
    "held out, lines": (edit("held_out_before.jsonl", lambda text: text[text.index("\n") + 1 :]), "[5, 3] completions"),
    "completions, text": (edit("completions.jsonl", lambda text: text.replace("{", "{{", 1)), "Line 1 of "),
    "completions, other": (edit("completions.jsonl", lambda text: text.replace('{"epoch": 2}', "2")), "Line 2 of "),
    "findings": (put("findings.jsonl", b"\x00\x00\n"), "findings.jsonl cannot be read: remove that line, which "),
    "history, missing": (lambda folder: (folder / "history.csv").unlink(), "history.csv has no whole row of epoch 1, "),
    "history, empty": (put("history.csv", b""), "history.csv has no whole row of epoch 1, so the run cannot go on"),
    "history, no header": (edit("history.csv", lambda text: text.replace(HEADER, "")), "has no whole row of epoch 1, "),
    "history, row": (edit("history.csv", lambda text: text.replace(ROWS[1], "")), "the run cannot go on as it began"),
    "history, column": (edit("history.csv", lambda text: text.replace(",200,", ",", 1)), "no whole row of epoch 2"),
    "history, text": (edit("history.csv", lambda text: text.replace("100", "1o0", 1)), "no whole row of epoch 1"),
    "history, twice": (edit("history.csv", lambda text: text.replace(ROWS[1], 2 * ROWS[1])), "has rows twice, or not"),
    "history, order": (edit("history.csv", lambda text: HEADER + "".join(ROWS[::-1])), "or not in their order, so the"),
}


def contents(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize("damage, sentence", TABLE.values(), ids=TABLE)
def test_what_is_damaged_is_said(damage, sentence, folder, capfd):
    damage(folder)
    before = contents(folder)
    with pytest.raises(SystemExit) as exit:
        fit.main(["--resume", "--log-dir", str(folder)])
    out, err = capfd.readouterr()
    assert exit.value.code == 2 and out == "" and err.count("\n") == 1 and len(err) < 700
    assert sentence in err and str(folder) in err
    assert contents(folder) == before


def test_what_a_kill_leaves_is_no_damage(folder, recipe, capfd):
    check_run(folder, recipe)
    rewind(folder, 3)
    assert (folder / "history.csv").read_text() == HEADER + "".join(ROWS[:3])
    assert (folder / "completions.jsonl").read_text() == "".join(f'{{"epoch": {epoch}}}\n' for epoch in (1, 2, 3))
    check_run(folder, recipe)
    with pytest.raises(SystemExit):
        fit.main(["--resume", "--log-dir", str(folder)])
    assert "model.weights" in capfd.readouterr().err  # which comes next
    for name in ("held_out_before.jsonl", "completions.jsonl"):
        (folder / name).unlink()
    check_run(folder, recipe)


def test_epochs(folder, recipe, tmp_path):
    (folder / "summary.json").write_text(json.dumps({"epochs": 4}))
    assert (saved_epochs(folder), finished_epochs(folder)) == (3, 4)
    (tmp_path / "empty").mkdir()
    check_run(tmp_path / "empty", recipe)
    assert (saved_epochs(tmp_path / "empty"), finished_epochs(tmp_path / "empty")) == (0, None)


def test_a_checkpoint_callback_says_so_too(folder):
    """To those who use it without a `Run`."""
    (folder / "completions.jsonl").write_text("x\n")
    with pytest.raises(ValueError, match="Line 1 of .*completions.jsonl cannot be read"):
        rewind(folder, 1)
