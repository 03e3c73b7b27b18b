"""What a teacher writes to training problems, as a file that primes a student."""

import sys
import warnings
from pathlib import Path

import keras_aha as aha
from keras_aha.models.presets import load_tokenizer
from keras_aha.models.special_tokens import prompt_ids, turn_end_id
from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.values import assignment
from keras_aha.runs import write_examples as module
from keras_aha.runs.build_task import build_held_out, build_task
from keras_aha.runs.prime_preset import imitate
from keras_aha.runs.priming_examples import build_examples
from keras_aha.runs.write_examples import write_examples

import numpy as np
import pandas as pd
import pytest
from conftest import SMALL

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import evaluate  # noqa: E402

CHANGES = [*SMALL, "rollouts.max_completion_length=40"]


def test_a_student_imitates_what_a_teacher_wrote(tmp_path, capsys):
    """Whole completions of the training problems, read as the policy reads them, and their end is learned."""
    path = tmp_path / "it's 🙂.jsonl"
    flags = [part for change in CHANGES for part in ("--set", change)]
    assert evaluate.main(["countdown_tiny", "--write-examples", str(path), "--problems", "5", *flags]) == 0
    recipe = Recipe.load("countdown_tiny").override([*CHANGES, assignment("priming.file", str(path))])
    rows = pd.read_json(path, lines=True)
    assert f"{len(rows)} completions of {rows['prompt'].nunique()} training problems" in capsys.readouterr().out
    task = build_task(recipe, recipe.training.seed)
    problems = {task.prompt(task.problem(i)): task.problem(i) for i in range(5)}
    scores = [task.score(problems[row.prompt], row.completion) for row in rows.itertuples()]
    assert rows["reward"].tolist() == pytest.approx([score.reward for score in scores])
    assert rows["correct"].tolist() == [score.correct for score in scores] and 0 < rows["correct"].sum()
    tokenizer = load_tokenizer("countdown_tiny")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as if a prompt were held out
        examples, held_out = build_examples(recipe, tokenizer, build_held_out(recipe))
    read = {tuple(row) for row in prompt_ids(tokenizer, list(problems))}
    for example in [*examples, *(held_out or ())]:
        assert tuple(example.prompt_ids) in read and example.completion_ids[-1] == turn_end_id(tokenizer)
    history = imitate(recipe, aha.load_policy("countdown_tiny"), (examples, None), steps=2, batch_size=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_what_has_no_end_is_no_example(tmp_path, monkeypatch):
    """Nor what is blank; and what is wrong, if it is asked so."""
    table = pd.DataFrame({"text": ["right", "cut", " \n", "wrong"], "stopped": [True, False, True, True]})
    table = table.assign(puzzle=0, correct=[True, True, True, False], reward=1.0, verdict="x", completion_length=3)
    monkeypatch.setattr("keras_aha.callbacks.evaluate_callback.EvaluateCallback.evaluate", lambda *_: table)
    for name in ("distribute_as", "build_policy", "GRPOModel"):
        monkeypatch.setattr(module, name, lambda _: None)
    write = lambda name, **settings: write_examples("countdown_tiny", tmp_path / name, changes=SMALL, **settings)  # noqa: E731
    assert write("all")["completion"].tolist() == ["right", "wrong"]
    assert write("right", only_correct=True)["completion"].tolist() == ["right"]
    for name in ("right", "none/there"):
        with pytest.raises(ValueError, match="`out` must be a new file, in a folder that can be written"):
            write(name)
    with pytest.raises(ValueError, match="`problems` must be 1 or more"):
        write("none", problems=0)
    table["stopped"] = False
    with pytest.raises(ValueError, match="No completion can be an example"):
        write("empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all", "right"]


@pytest.mark.parametrize("flags", [["--write-examples", "x", "--wait", "1"], ["--problems", "3"], ["--only-correct"]])
def test_flags_that_do_not_belong_together_are_refused(flags, capsys):
    with pytest.raises(SystemExit):
        evaluate.main(["countdown_tiny", *flags])
    assert "does not go with --write-examples" in (told := capsys.readouterr().err) or "needs --write-examples" in told
