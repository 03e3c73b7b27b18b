import json
import random
from fractions import Fraction

from keras_aha.tasks import WordProblems

import pandas as pd
import pytest

ENDS = "\u2028 \u2029 \x85 \x0b \x0c \x1c \r"
ROWS = [
    {
        "question": f"Ann has {n} bags of {n + 1} nuts and finds half a nut. How many nuts is that?",
        "answer": f"The bags hold {n}*{n + 1} = <<{n}*{n + 1}={n * (n + 1)}>>{n * (n + 1)} nuts.\n"
        f"With the half that is {n * (n + 1)}.5.\n#### {n * (n + 1):,}.5",
    }
    for n in range(2, 60)
]


def write(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture
def task(tmp_path):
    return WordProblems(write(tmp_path / "train.jsonl", ROWS), template="compact")


def test_a_problem(task):
    problem = task.problem(0)
    n = int(problem.question.split()[2])
    assert problem.number == n * (n + 1) + Fraction(1, 2) and str(problem) == problem.question
    assert task.prompt(problem) == f"{problem.question}\n<think>\n"
    assert task.labels(problem) == {"difficulty": 2}
    solution = task.worked_solution(problem, random.Random(0))
    assert solution == (
        f"The bags hold {n}*{n + 1} = {n * (n + 1)} nuts.\nWith the half that is {n * (n + 1)}.5.\n"
        f"</think>\n<answer>{n * (n + 1)}.5</answer>"
    )
    assert task.score(problem, solution).reward == 1.0


@pytest.mark.parametrize(
    ("completion", "reward", "verdict"),
    [
        ("so\n</think>\n<answer>6.5</answer>", 1.0, "correct"),
        ("so\n</think>\n<answer>13/2</answer>", 1.0, "correct"),
        ("<answer>6.5</answer>", 0.9, "correct"),  # no end of the thought
        ("so\n</think>\n<answer>6.5</answer>\nDone, I think.", 0.8, "correct"),  # no form, and text after it
        ("</think>\n<answer>6</answer>", 0.2, "wrong_value"),
        ("<answer>6</answer>", 0.1, "wrong_value"),
        ("</think> so <answer>6</answer>", 0.1, "wrong_value"),
        ("</think>\n<answer>1</answer><answer>6</answer>", 0.0, "wrong_value"),
        ("</think>\n</think>\n<answer>6</answer>", 0.1, "wrong_value"),
        ("</think>\n<answer>six</answer>", 0.0, "not_a_number"),
        ("</think>\n<answer>" + " " * 50 + "6.5</answer>", 0.0, "too_long"),
        ("</think>\n6.5", 0.0, "no_answer"),
    ],
)
def test_score(task, completion, reward, verdict):
    problem = next(task.problem(i) for i in range(99) if " 2 bags" in task.problem(i).question)
    score = task.score(problem, completion)
    assert (score.reward, score.correct, score.verdict) == (pytest.approx(reward), verdict == "correct", verdict)
    assert score.well_formed == (verdict in ("correct", "wrong_value"))


def test_other_weights(tmp_path):
    task = WordProblems(write(tmp_path / "train.jsonl", ROWS), number_reward=0, form_reward=0.5)
    problem = task.problem(0)
    for number, before, reward in ((-1, "", 0), (-1, "</think>", 0.5), (problem.number, "", 0.5)):
        assert task.score(problem, f"{before}<answer>{number}</answer>").reward == reward


def test_the_majority_votes_on_numbers(task):
    assert task.answer("<answer>$1,000.0</answer>") == task.answer("<answer>1000</answer>") == "1000"
    assert task.answer("<answer>no</answer>") is task.answer("1000") is None


def test_a_quarter_is_held_out_whatever_the_seed(tmp_path):
    path = write(tmp_path / "train.jsonl", [*ROWS, *ROWS])
    tasks = [WordProblems(path, seed=seed) for seed in (0, 0, 1)]
    cycles = [[task.problem(i) for i in range(300)] for task in tasks]
    assert cycles[0] == cycles[1] != cycles[2] and set(cycles[0]) == set(cycles[2])
    rest = len(ROWS) - len(set(cycles[0]))
    assert 5 < rest < 30
    assert not set(cycles[0]) & set(tasks[0].held_out(rest).problems)
    with pytest.raises(ValueError, match=f"there are only {rest} distinct held-out problems. Received: n={rest + 1}"):
        tasks[0].held_out(rest + 1)


def test_a_held_out_file(tmp_path):
    files = write(tmp_path / "train.jsonl", ROWS), write(tmp_path / "test.jsonl", ROWS[50:])
    task = WordProblems(*files)
    held_out = set(task.held_out(8).problems)
    assert {problem.number for problem in held_out} == {n * (n + 1) + Fraction(1, 2) for n in range(52, 60)}
    assert len({task.problem(i) for i in range(200)}) == 50 and not held_out & {task.problem(i) for i in range(200)}


def test_files_as_they_come(tmp_path):
    """From other systems and programs, with what Python alone takes for line ends; or as a table."""
    rows = [row | {"question": f"{ENDS}{row['question']}{ENDS}?"} for row in ROWS]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "plain.jsonl").write_bytes(text.encode())
    (tmp_path / "mark.jsonl").write_bytes(text.encode("utf-8-sig")[:-1])
    (tmp_path / "windows.jsonl").write_bytes(text.replace("\n", "\r\n").encode())
    pd.DataFrame(rows).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    plain, *others = [[WordProblems(path).problem(i) for i in range(99)] for path in sorted(tmp_path.iterdir())]
    assert others == [plain] * 3 and {problem.question for problem in plain} < {row["question"].strip() for row in rows}
    pd.DataFrame([*rows, {"question": "How?"}]).to_parquet(tmp_path / "gap.parquet")
    with pytest.raises(ValueError, match=f"Row {len(rows) + 1} of the file needs a question, and an answer"):
        WordProblems(tmp_path / "gap.parquet")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("\n \n", "is empty"),
        ('{"question": "How?"}', "Line 1 of the file needs a question"),
        ('{"question": "How?", "answer": 7}', "Line 1"),
        ('{"question": "", "answer": "#### 7"}', "Line 1"),
        ('\n{"question": "How?", "answer": "#### seven"}', "Line 2"),
        ("[" * 10**5, "Line 1"),
        (r'{"question": "How?\ud800", "answer": "#### 7"}', "Line 1"),  # which no vocabulary can write
        ('{"question": "How?", "answer": "#### 7"}', "no problem to train on"),  # as its hash holds it out
    ],
)
def test_a_file_that_is_none(tmp_path, text, sentence):
    (tmp_path / "train.jsonl").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        WordProblems(tmp_path / "train.jsonl")


def test_arguments(tmp_path):
    path = write(tmp_path / "train.jsonl", ROWS)
    for wrong in ({"number_reward": -1}, {"number_reward": 0.5, "form_reward": 0.5}, {"seed": "a"}, {"template": "x"}):
        with pytest.raises(ValueError, match="Received: "):
            WordProblems(path, **wrong)
    for name in ("none.jsonl", "latin.jsonl", "torn.parquet"):
        (tmp_path / name).write_bytes(b"\xff")
        (tmp_path / "none.jsonl").unlink(missing_ok=True)
        with pytest.raises(ValueError, match="cannot be read: .*Received: "):
            WordProblems(tmp_path / name)
