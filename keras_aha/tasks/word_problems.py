"""Word problems whose answer is a number, in the form of GSM8K."""

import json
import random
import re
from dataclasses import dataclass, field
from fractions import Fraction
from os import PathLike

from keras_aha.files import local_path, read_lines
from keras_aha.tasks.answer_tag import read_answer
from keras_aha.tasks.drawn_task import check_index
from keras_aha.tasks.held_out import HeldOut
from keras_aha.tasks.held_out_split import split_rows
from keras_aha.tasks.number import MAX_LENGTH, read_number
from keras_aha.tasks.task import Score, Task
from keras_aha.tasks.template import named_templates, resolve_template

TEMPLATES = named_templates(
    "{question}\n"
    "Think inside <think> </think> tags, then give only the number inside <answer> </answer> tags, "
    "for example <answer>42</answer>.",
    compact="{question}",
)
_CALCULATION = re.compile("<<[^<>]*>>")  # GSM8K's notes for a calculator, as in 48/2 = <<48/2=24>>24


@dataclass(frozen=True)
class WordProblem:
    """A question, its number, and how a person worked it out.

    Attributes:
        number: the exact answer.
        steps: lines that lead to it, as the file has them.
    """

    question: str
    number: Fraction
    steps: str = field(repr=False)

    def __str__(self) -> str:
        return self.question

    @property
    def canonical(self) -> tuple[str, str]:
        """The question, with single blanks: what makes two problems the same puzzle."""
        return "word problem", " ".join(self.question.split())


class WordProblems(Task):
    """The problems of a file, in an order that the seed decides, again and again.

    Each line, or row, holds `question` and `answer`, a text whose last line is `#### ` and a number: GSM8K's form
    (https://github.com/openai/grade-school-math), arXiv:2110.14168.

    Args:
        file: a file of JSON lines, or a `.parquet` file; a quarter of its questions is held out.
        held_out_file: another one, such as GSM8K's `test.jsonl`, of which all is held out instead. A problem that is
            in both is not trained on.
        seed: any integer; it changes the order of the problems, never which are held out.
        template: how a prompt is written: the name of one (see `template.named_templates`), such as `"plain"`, or a
            format string with the field `{question}`.
        number_reward: for an answer that is a number, right or wrong.
        form_reward: for such an answer that stands alone behind the only `</think>`. Both are part of the reward of a
            right answer, which is 1.

    Raises:
        ValueError: if an argument is out of range, the template unknown, a file not readable (the line is named), or
            no problem left to train on.
    """

    def __init__(
        self,
        file: str | PathLike,
        held_out_file: str | PathLike | None = None,
        seed: int = 0,
        template: str = "plain",
        number_reward: float = 0.1,
        form_reward: float = 0.1,
    ):
        if not isinstance(seed, int):
            raise ValueError(f"seed must be an integer. Received: seed={seed!r}")
        if number_reward < 0 or form_reward < 0 or number_reward + form_reward >= 1:
            raise ValueError(
                "number_reward and form_reward must be at least 0, and less than 1 together. "
                f"Received: number_reward={number_reward!r}, form_reward={form_reward!r}"
            )
        self.seed = seed
        self.template = template
        self.number_reward = number_reward
        self.form_reward = form_reward
        self._format_string = resolve_template(template, TEMPLATES, {"question": "How many?"})
        held_out = None if held_out_file is None else read_problems(held_out_file)
        self._training, self._held_out = split_rows(read_problems(file), lambda row: row.canonical, seed, held_out)
        if not self._training:
            raise ValueError(f"The file leaves no problem to train on. Received: file={str(file)!r}")

    def problem(self, index: int) -> WordProblem:
        return self._training[check_index(index) % len(self._training)]

    def prompt(self, problem: WordProblem) -> str:
        return self._format_string.format(question=problem.question)

    def score(self, problem: WordProblem, completion: str) -> Score:
        """Scores the last complete `<answer>…</answer>` of `completion`, see `number.read_number`.

        The reward is 1.0 if it is the number, else what `number_reward` and `form_reward` give. Text after the answer
        takes 0.1 away, and so does more than one answer tag (see `answer_tag`). Verdicts, the first that applies:
        `no_answer`, `too_long`, `not_a_number`, `wrong_value`, `correct`.
        """
        answer = read_answer(completion)
        if answer.text is None or len(answer.text) > MAX_LENGTH:
            return Score(0.0, False, "no_answer" if answer.text is None else "too_long")
        number = read_number(answer.text)
        if number is None:
            return Score(0.0, False, "not_a_number")
        correct = number == problem.number
        reward = self.number_reward + self.form_reward * _has_form(completion)
        if correct:
            reward += 1 - self.number_reward - self.form_reward
        return Score(max(reward - answer.deduction, 0.0), correct, "correct" if correct else "wrong_value")

    def held_out(self, n: int) -> HeldOut:
        return HeldOut(self, self._held_out).held_out(n)

    def problem_count(self) -> int:
        return len(self._training)

    def difficulty(self, problem: WordProblem) -> int:
        """Returns the number of lines in which a person worked it out."""
        return problem.steps.count("\n") + bool(problem.steps)

    def labels(self, problem: WordProblem) -> dict[str, int]:
        return {"difficulty": self.difficulty(problem)}

    def answer(self, completion: str) -> str | None:
        """Returns the number that `score` reads, in lowest terms; `None` if there is none."""
        text = read_answer(completion).text
        number = None if text is None else read_number(text)
        return None if number is None else str(number)

    def worked_solution(self, problem: WordProblem, rng: random.Random) -> str:
        """Returns the lines of the file without their notes for a calculator, and the answer."""
        return f"{_CALCULATION.sub('', problem.steps)}\n</think>\n<answer>{_written(problem.number)}</answer>"


def read_problems(path: str | PathLike) -> list[WordProblem]:
    """Reads the word problems of a file of JSON lines, or a `.parquet` file.

    Raises:
        ValueError: if the file cannot be read or is empty, or a line or row is no problem; it is named, counted from 1.
    """
    path = local_path(path, "file")
    try:
        rows = _read_parquet(path) if path.suffix.lower() == ".parquet" else read_lines(path)
    except (ImportError, OSError, ValueError) as error:
        raise ValueError(f"The file of word problems cannot be read: {error}. Received: {str(path)!r}") from error
    problems = [_read_row(number, row) for number, row in enumerate(rows, start=1) if str(row).strip()]
    if not problems:
        raise ValueError(f"The file of word problems is empty. Received: {str(path)!r}")
    return problems


def _read_parquet(path) -> list[dict]:
    import pandas  # a second of start-up that tasks without such a file do not pay

    return pandas.read_parquet(path).to_dict("records")


def _read_row(row_number: int, row: str | dict) -> WordProblem:
    """Of a line of JSON, or of a table's row."""
    try:
        values = json.loads(row) if isinstance(row, str) else row
        question, (steps, mark, number) = values["question"].strip(), values["answer"].rpartition("####")
        (question + steps).encode()  # no vocabulary knows lone surrogates
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        question = mark = number = ""
    value = read_number(number)
    if not question or not mark or value is None:
        raise ValueError(
            f"{'Line' if isinstance(row, str) else 'Row'} {row_number} of the file needs a question, and an answer "
            f"that ends in #### and a number. Received: {str(row)[:200]!r}"
        )
    return WordProblem(question, value, steps.strip())


def _has_form(completion: str) -> bool:
    """Whether the thought ends once, and behind it there is one answer and nothing else."""
    alone = completion.partition("</think>")[2].strip()
    marks = [completion.count(mark) for mark in ("<think>", "</think>", "<answer>", "</answer>")]
    return marks == [0, 1, 1, 1] and alone.startswith("<answer>") and alone.endswith("</answer>")


def _written(number: Fraction) -> str:
    """As an integer or a decimal if it is one, else as a fraction."""
    if number.denominator == 1 or Fraction(str(float(number))) != number:
        return str(number)
    return str(float(number))
