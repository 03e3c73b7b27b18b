import json
import math
import random
import warnings

from keras_aha.recipes.recipe import Recipe
from keras_aha.runs.build_task import build_task
from keras_aha.tasks import Rows
from keras_aha.tasks.chat import write_chat
from keras_aha.training.grader import reward_logs

import numpy as np
import pandas as pd
import pytest

ROWS = [{"prompt": f"{n}+{n}?", "answer": 2 * n, "kind": ("a", "b")[n % 2], "level": n % 5} for n in range(60)]


def write(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "train.jsonl", ROWS)


def test_a_row(file):
    task = Rows(file, category="kind", difficulty="level", checker="number", template="compact")
    row = task.problem(0)
    n = int(str(row).partition("+")[0])
    assert (row.prompt, row.answer, row.category, row.difficulty) == (f"{n}+{n}?", str(2 * n), "ab"[n % 2], n % 5)
    assert task.prompt(row) == f"{n}+{n}?\n<think>\n" and task.difficulty(row) == n % 5
    assert task.labels(row) == {"category": "ab"[n % 2], "difficulty": n % 5} and Rows(file).labels(row)["category"]
    assert task.worked_solution(row, random.Random(0)) == f"</think>\n<answer>{2 * n}</answer>"
    assert "inside <answer> </answer> tags.\n" in Rows(file).prompt(row)
    assert Rows(file, template="So: {prompt}").prompt(row) == f"So: {n}+{n}?"


@pytest.mark.parametrize(
    ("form", "completion", "reward", "verdict", "lenient"),
    [
        ("tag", "so\n</think>\n<answer>$8.00</answer>", 1.0, "correct", True),
        ("tag", "<answer>8</answer>\nDone, I think.", 0.9, "correct", True),
        ("tag", "<answer>7</answer>", 0.1, "wrong_value", False),
        ("tag", "<answer>7</answer> I think", 0.0, "wrong_value", False),
        ("tag", "<answer>seven</answer>", 0.0, "not_a_number", False),
        ("tag", "It is 8", 0.0, "no_answer", True),
        ("tag", r"<answer>the number</answer> \boxed{8}", 0.0, "not_a_number", True),
        ("boxed", r"So $\boxed{8}$.", 1.0, "correct", True),
        ("boxed", "<answer>8</answer>", 0.0, "no_answer", True),
        ("####", "so\n#### 8\n", 1.0, "correct", True),
        ("last_line", "so\n</think>\n8", 1.0, "correct", True),
        ("last_line", "so\n</think>\n7", 0.1, "wrong_value", False),
    ],
)
def test_score(file, form, completion, reward, verdict, lenient):
    task = Rows(file, checker="number", answer_form=form)
    row = next(task.problem(i) for i in range(60) if task.problem(i).answer == "8")
    score = task.score(row, completion)
    assert (score.verdict, score.correct, score.lenient) == (verdict, verdict == "correct", lenient)
    assert score.reward == pytest.approx(reward)
    solution = task.worked_solution(row, random.Random(0))
    assert task.score(row, solution).reward == 1.0 and task.answer(solution) == "8"
    assert task.answer_form.rule in task.prompt(row)


def test_columns_of_ones_own(tmp_path):
    rows = [{"Question (en)": f"{n}?", "a.b": "yes\nno", "gold": "Yes", "why": f"{n}\nis so"} for n in range(40)]
    pd.DataFrame(rows).to_csv(tmp_path / "a.csv")
    given = {"prompt": "{Question (en)} {{{a.b}}}", "answer": "gold", "solution": "why"}
    task = Rows(tmp_path / "a.csv", **given, checker={"name": "exact", "ignore_case": True})
    row = task.problem(0)
    n = row.prompt.partition("?")[0]
    assert row.prompt == f"{n}? {{yes\nno}}" and task.score(row, "<answer>YES</answer>").correct
    assert task.worked_solution(row, random.Random(0)) == f"{n}\nis so\n</think>\n<answer>Yes</answer>"


def test_a_checker_for_each_category(file):
    task = Rows(file, category="kind", checkers={"b": {"name": "number", "tolerance": 0.5}})
    for row in map(task.problem, range(20)):
        assert task.score(row, f"<answer>{row.answer}.0</answer>").correct == (row.category == "b")
    assert task.answer("<answer> 1.0\n b </answer>") == "1.0 b"  # no majority can know the category
    with pytest.raises(ValueError, match="must be of categories that rows have; the nearest is a.*checkers.aa"):
        Rows(file, category="kind", checkers={"aa": "number"})


MESSAGES = [
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": f"{n}+1?"},
        {"role": "assistant", "content": f"{n + 1}"},
    ]
    for n in range(30)
]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("form", ["gemma", "gemma4", "gemma4_thinking", "chatml", "llama3"])
def test_messages(tmp_path, suffix, form):
    path = tmp_path / f"a.{suffix}"
    rows = [{"chat": messages, "answer": messages[-1]["content"]} for messages in MESSAGES]
    if suffix == "csv":
        pd.DataFrame([row | {"chat": json.dumps(row["chat"])} for row in rows]).to_csv(path)
    else:
        write(path, rows) if suffix == "jsonl" else pd.DataFrame(rows).to_parquet(path)
    task = Rows(path, messages="chat", template=form)
    row = task.problem(0)
    *before, last = MESSAGES[int(row.answer) - 1][:-1]
    asked = f"{last['content']}\nThink inside <think> </think> tags, then {task.answer_form.rule}."
    if form == "gemma4_thinking":
        before[0] = {"role": "system", "content": "<|think|>\nBe brief."}
    expected = write_chat([*before, {"role": "user", "content": asked}], form.removesuffix("_thinking"))
    thought = "<|channel>thought\n" if form == "gemma4_thinking" else "<think>\n"
    assert str(row) == last["content"] and task.prompt(row) == "".join(piece.text for piece in expected) + thought


# === Held out ===


def test_a_quarter_is_held_out_whatever_the_seed(tmp_path):
    path = write(tmp_path / "train.jsonl", [*ROWS, *({**row, "prompt": f" {row['prompt']}\n"} for row in ROWS)])
    tasks = [Rows(path, seed=seed) for seed in (0, 0, 1)]
    cycles = [[task.problem(i) for i in range(task.problem_count())] for task in tasks]
    assert cycles[0] == cycles[1] != cycles[2] and set(cycles[0]) == set(cycles[2])
    rest = 60 - len({row.canonical for row in cycles[0]})
    held_out = tasks[0].held_out(rest).problems
    assert 5 < rest < 30 and not {row.canonical for row in cycles[0]} & {row.canonical for row in held_out}
    assert tasks[0].held_out(3).problems == held_out[:3] and tasks[0].problem(0) == tasks[0].problem(len(cycles[0]))
    with pytest.raises(ValueError, match=f"there are only {rest} distinct held-out problems. Received: n={rest + 1}"):
        tasks[0].held_out(rest + 1)
    with pytest.raises(ValueError, match="must be positive"):
        tasks[0].held_out(-1)


def test_a_held_out_file_and_rows_that_are_in_both(file, tmp_path):
    other = write(tmp_path / "test.jsonl", [*ROWS[50:], {"prompt": "new", "answer": "1"}])
    with pytest.warns(UserWarning, match="10 of 60 rows ask what a row of the held-out file asks") as warned:
        task = Rows(file, held_out_file=other)
    assert warned[0].filename == __file__
    held_out = {str(row) for row in task.held_out(11).problems}
    assert held_out == {"new", *(row["prompt"] for row in ROWS[50:])}
    assert {str(task.problem(i)) for i in range(200)} == {row["prompt"] for row in ROWS[:50]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Rows(write(tmp_path / "few.jsonl", ROWS[:50]), held_out_file=other)


# === What is no row ===


@pytest.mark.parametrize(
    ("row", "arguments", "sentence"),
    [
        ({"prompt": "How?"}, {}, "Line 31 of a.jsonl has no `answer`"),
        ({"prompt": " ", "answer": "7"}, {}, "Line 31 of a.jsonl: The prompt must have words"),
        ({"prompt": "How?", "answer": ""}, {}, "Line 31 of a.jsonl: `answer` must be a text"),
        ({"prompt": "How?", "answer": "so"}, {"checker": "number"}, "Line 31 of a.jsonl: `answer` must be a number"),
        (
            {"prompt": "How?", "answer": "7"},
            {"answer_in": "boxed"},
            r"Line 1 of a.jsonl: `answer` must .* as in .boxed",
        ),
        (
            {"prompt": "How?", "answer": "7", "level": "hard"},
            {"difficulty": "level"},
            "Line 31 .* `level` must be a number",
        ),
        (
            {"prompt": "How?", "answer": "7", "level": "nan"},
            {"difficulty": "level"},
            "Line 31 .* `level` must be a number",
        ),
        (
            {"prompt": "[{]", "answer": "7"},
            {"messages": "prompt", "template": "gemma"},
            "Line 1 .*`messages` must be a list",
        ),
    ],
)
def test_a_wrong_row_in_the_middle_is_named(tmp_path, row, arguments, sentence):
    path = write(tmp_path / "a.jsonl", [*ROWS[:30], row, *ROWS[30:]])
    with pytest.raises(ValueError, match=f"^{sentence}.*"):
        Rows(path, **arguments)


def test_rows_that_nobody_can_check(tmp_path):
    """Only a judge tells: rows need no answer, and completions have no accuracy."""
    file = write(
        tmp_path / "poems.jsonl", [{"prompt": f"A poem of {n} lines.", "answer": "…"[: n % 2]} for n in range(20)]
    )
    with pytest.raises(ValueError, match="answer"):
        Rows(write(tmp_path / "asked.jsonl", [{"prompt": "A poem."}] * 9))
    lacking = write(tmp_path / "lacking.jsonl", [{"prompt": f"A poem of {n} lines."} for n in range(20)])
    for task in (Rows(file, checker="none"), Rows(lacking, checker="none")):
        scores = [task.score(task.problem(0), text) for text in ("Roses", "<answer>red</answer>")]
        assert [(score.reward, score.correct, score.verdict) for score in scores] == [(0.0, False, "unchecked")] * 2
        logs = reward_logs(scores, {"reward": np.array([0.5, 0.7])})
        assert logs["reward"] == 0.6 and math.isnan(logs["accuracy"]) and math.isnan(logs["format_rate"])
    assert task.reference(task.problem(0)) is None
    with pytest.raises(NotImplementedError, match="no worked solution"):
        task.worked_solution(task.problem(0), random.Random(0))


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([], "at least one"),
        ([{"role": "user"}], "`content`"),
        ([{"role": "assistant", "content": "so"}], "user"),
        ([{"role": "user", "content": "a<end_of_turn>"}], "<end_of_turn>"),
    ],
)
def test_messages_that_are_none(tmp_path, messages, sentence):
    path = write(tmp_path / "a.jsonl", [{"messages": messages, "answer": "1"}])
    with pytest.raises(ValueError, match=f"^Line 1 of a.jsonl: .*{sentence}"):
        Rows(path, messages="messages", template="gemma")


def test_arguments(file):
    for wrong in (
        {"prompt": "{prompt"}, {"prompt": "{}"}, {"prompt": "{prompt!r}"}, {"prompt": "no } column"}, {"seed": "a"},
        {"form_reward": 1}, {"answer_form": "boxes"}, {"answer_in": "tags"}, {"template": "x"}, {"checker": {}},
        {"checker": "numbers"}, {"checker": {"name": "number", "tolerances": 1}}, {"checkers": {"a": "number"}},
        {"messages": "prompt"}, {"prompt": "promt"},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="Received: "):
            Rows(file, **wrong)
    one = write(file.parent / "one.jsonl", ROWS[:1])
    with pytest.raises(ValueError, match="`file` must leave a row to train on"):
        Rows(one, held_out_file=one)


# === Published files, by a recipe alone ===


def gsm8k(n):
    steps = f"The bags hold {n}*{n + 1} = <<{n}*{n + 1}={n * (n + 1)}>>{n * (n + 1)} nuts.\nThat is all."
    return {"question": f"Ann has {n} bags of {n + 1} nuts. How many?", "answer": f"{steps}\n#### {n * (n + 1):,}"}


def test_gsm8k(tmp_path):
    write(tmp_path / "train.jsonl", [gsm8k(n) for n in range(20, 60)])
    write(tmp_path / "test.jsonl", [gsm8k(n) for n in range(60, 70)])
    files = [f"task.file={tmp_path}/train.jsonl", f"task.held_out_file={tmp_path}/test.jsonl"]
    task = build_task(Recipe.load("gsm8k").override(files))
    row = task.held_out(10).problem(0)
    n = int(row.prompt.split()[2])
    solution = task.worked_solution(row, random.Random(0))
    assert solution == (
        f"The bags hold {n}*{n + 1} = {n * (n + 1)} nuts.\nThat is all.\n</think>\n<answer>{n * (n + 1):,}</answer>"
    )
    assert task.score(row, solution).reward == 1.0 and task.labels(row) == {"difficulty": 2}
    assert task.score(row, f"It is {n * (n + 1)}.0").lenient and task.answer(solution) == str(n * (n + 1))


def test_math_as_simplerl_has_it(tmp_path):
    pytest.importorskip("math_verify")
    rows = [
        {
            "input": "…",
            "question": f"What is {n}/3?",
            "gt_answer": rf"\frac{{{n}}}{{3}}",
            "subject": "Algebra",
            "level": n % 3 + 3,
        }
        for n in range(1, 41, 3)
    ]
    (tmp_path / "math.json").write_text(json.dumps(rows, indent=4))
    task = build_task(Recipe.load("math").override([f"task.file={tmp_path}/math.json", "rollouts.long_prompts=error"]))
    row = task.problem(0)
    n = int(row.answer.removeprefix(r"\frac{").partition("}")[0])
    assert task.labels(row) == {"category": "Algebra", "difficulty": n % 3 + 3}
    assert r"give only the answer inside \boxed{}." in task.prompt(row)
    scores = [
        task.score(row, text)
        for text in (rf"So $\boxed{{{n}/3}}$.", rf"<answer>\frac{{{n}}}{{3}}</answer>", r"\boxed{-1}")
    ]
    assert [score.correct for score in scores] == [True, False, False]
    assert [score.lenient for score in scores] == [True, True, False] and [score.reward for score in scores] == [
        1.0,
        0,
        0.1,
    ]
    whole = [{"prompt": row["question"], "answer": rf"It is $\boxed{{{row['gt_answer']}}}$."} for row in rows]
    published = Rows(write(tmp_path / "math.jsonl", whole), answer_in="boxed", checker="math", answer_form="boxed")
    row = published.problem(0)
    solution = published.worked_solution(row, random.Random(0))
    assert solution == f"It is $\\boxed{{{row.answer}}}$.\n</think>\n\\boxed{{{row.answer}}}"
    assert published.score(row, solution).reward == 1.0
