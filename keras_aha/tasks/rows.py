"""`Rows`: the rows of a user's own file, each with a prompt and the answer that a checker expects."""

from __future__ import annotations

import operator
import random
import warnings
from array import array
from collections.abc import Mapping, Sequence
from os import PathLike

from keras_aha.names import suggestion
from keras_aha.tasks.answer_form import ANSWER_FORMS, stated_answers
from keras_aha.tasks.checkers.checker import Checker
from keras_aha.tasks.checkers.make_checker import make_checker
from keras_aha.tasks.checkers.unchecked import UNCHECKED, Unchecked
from keras_aha.tasks.drawn_task import check_index
from keras_aha.tasks.held_out import HeldOut
from keras_aha.tasks.held_out_split import split_rows, stable_hash
from keras_aha.tasks.row import Row
from keras_aha.tasks.row_columns import RowColumns
from keras_aha.tasks.rows_file import read_rows
from keras_aha.tasks.task import Score, Task
from keras_aha.tasks.template import CHAT_TEMPLATES, named_templates, resolve_template, write_prompt


class Rows(Task):
    """The rows of a file, in an order that the seed decides, again and again.

    A quarter of the rows is held out, by the hash of what the prompt says, whatever the seed; or a file of its own is.
    All rows are checked as the file is opened; an error names the first wrong one.

    Args:
        file: a file of JSON lines, JSON, CSV, TSV or Parquet, a list of such files, or a folder with them; see
            `rows_file.read_rows`.
        held_out_file: another one, of which all rows are held out instead of a quarter. A row that is in both is not
            trained on.
        prompt: the column of what is asked, or a text with several columns in it, such as `"{question}\\n{options}"`.
        messages: instead of `prompt`: a column with a conversation, a list of objects with a `role` and a `content`,
            or the text of one. `template` is then the name of the family that is to read it. The assistant's last
            message, if nobody answers it, is left out.
        answer: the column of what is expected.
        answer_in: where the answer stands in that column: it is the `"whole"` text, or stands in one of the forms of
            `answer_form`, such as `"####"` in GSM8K, `"boxed"` in MATH. What stands before it, or around a box, is a
            solution for `worked_solution`.
        category: a column of labels, by which held-out results are grouped and a checker may be chosen.
        difficulty: a column of numbers that are larger for harder rows. Without it, it is the number of lines of the
            solution.
        solution: a column that tells how the answer is worked out; rows need not have it.
        checker: says whether an answer is right: a name, such as `"exact"` or `"number"`, `"module:function"`, or a
            table with the `name` and its options. `"none"` checks nothing, for rows that only a judge can judge; they
            need no answer then.
        checkers: category → checker, for categories that have another one.
        answer_form: where a completion must state its answer: `"tag"`, which is `<answer> </answer>`, `"boxed"`, which
            is `\\boxed{}`, `"####"`, the rest of a line, or `"last_line"`. The templates that have a name say so.
        template: how a prompt is written: the name of one (see `template.named_templates`), such as `"plain"`, or a
            format string with the field `{prompt}`.
        form_reward: for an answer that can be read and is wrong.
        seed: any integer; it changes the order of the rows, never which are held out.

    Raises:
        ValueError: if an argument is out of range, a file or row not readable, or no row left to train on.
    """

    def __init__(
        self,
        file: str | PathLike | Sequence[str | PathLike],
        held_out_file: str | PathLike | Sequence[str | PathLike] | None = None,
        prompt: str = "prompt",
        messages: str | None = None,
        answer: str = "answer",
        answer_in: str = "whole",
        category: str | None = None,
        difficulty: str | None = None,
        solution: str = "solution",
        checker: str | Mapping = "exact",
        checkers: Mapping[str, str | Mapping] | None = None,
        answer_form: str = "tag",
        template: str = "plain",
        form_reward: float = 0.1,
        seed: int = 0,
    ):
        chosen = {"answer_in": (answer_in, ["whole", *ANSWER_FORMS]), "answer_form": (answer_form, [*ANSWER_FORMS])}
        if messages is not None:
            chosen["template"] = template, [*CHAT_TEMPLATES]
        for name, (value, known) in chosen.items():
            if value not in known:
                near = suggestion(value, known)
                raise ValueError(f"`{name}` must be one of {', '.join(known)}{near}. Received: {name}={value!r}")
        if not isinstance(seed, int) or not 0 <= form_reward < 1:
            raise ValueError(
                "`seed` must be an integer, and `form_reward` at least 0 and below 1. "
                f"Received: seed={seed!r}, form_reward={form_reward!r}"
            )
        if checkers and category is None:
            raise ValueError(f"`checkers` need `category`, the column that chooses one. Received: checkers={checkers}")
        self.seed = seed
        self.template = template
        self.form_reward = form_reward
        self.answer_form = ANSWER_FORMS[answer_form]
        self._rule = f"Think inside <think> </think> tags, then {self.answer_form.rule}."
        rule = self._rule.replace("{", "{{").replace("}", "}}")
        templates = named_templates("{prompt}\n" + rule, compact="{prompt}")
        self._format_string = resolve_template(template, templates, {"prompt": "How many?"})
        self._checker = _make_checker(checker)
        columns = prompt, messages, answer, answer_in, category, difficulty, solution, template
        self._columns = RowColumns(*columns, needs_answer=not isinstance(self._checker, Unchecked))
        self._checkers = {name: _make_checker(own) for name, own in (checkers or {}).items()}
        self._tables, self._keys, self._categories = [], array("Q"), set()
        self._open(file, held_out_file)

    def _open(self, file, held_out_file) -> None:
        """Reads the files, and parts their rows: numbers of those to train on, and of the held-out ones."""
        self._read(file, "file")
        count, held_out = len(self._keys), None
        if held_out_file is not None:
            self._read(held_out_file, "held_out_file")
            held_out = range(count, len(self._keys))
        for name in sorted(self._checkers.keys() - self._categories):
            near = suggestion(name, self._categories)
            raise ValueError(f"`checkers` must be of categories that rows have{near}. Received: checkers.{name}")
        training, held_out = split_rows(range(count), lambda index: ("row", self._keys[index]), self.seed, held_out)
        self._training, self._held_out = array("I", training), array("I", held_out)
        if not self._training:
            raise ValueError(f"`file` must leave a row to train on: all are held out. Received: file={str(file)!r}")
        if held_out_file is not None and len(training) < count:
            warnings.warn(
                f"{count - len(training):,} of {count:,} rows ask what a row of the held-out file asks, so they are "
                f"not trained on. Received: file={str(file)!r}, held_out_file={str(held_out_file)!r}",
                stacklevel=3,
            )

    def _read(self, files, key: str) -> None:
        """Reads and checks files of rows; ValueError names the first that is wrong."""
        table, checked = read_rows(files, key, self._columns.needed, self._columns.optional), set()
        for index, texts in enumerate(table):
            try:
                row = self._columns.row(texts)
                if (expected := hash((row.category, row.answer))) not in checked:  # the same answers come again
                    self._checker_of(row).check_expected(row.answer)
                    checked.add(expected)
            except ValueError as error:
                raise ValueError(f"{table.place(index)}: {error}") from error
            self._keys.append(stable_hash(*row.canonical))
            self._categories.add(row.category or "")
        self._tables.append(table)

    def _row(self, index: int) -> Row:
        """Of all files, those that are held out behind the others."""
        first = self._tables[0]
        table, index = (first, index) if index < len(first) else (self._tables[1], index - len(first))
        return self._columns.row(table[index])

    def _checker_of(self, row: Row) -> Checker:
        return self._checkers.get(row.category, self._checker)

    def problem(self, index: int) -> Row:
        return self._row(self._training[check_index(index) % len(self._training)])

    def prompt(self, problem: Row) -> str:
        if not problem.messages:
            return self._format_string.format(prompt=problem.prompt)
        *before, last = problem.messages
        asked = {"role": "user", "content": f"{last['content']}\n{self._rule}"}
        return write_prompt([*before, asked], self.template)

    def score(self, problem: Row, completion: str) -> Score:
        """Scores the answer of `completion` by the checker of the problem's category.

        The reward is 1.0 if the answer is right, `form_reward` if it can be read and is wrong, else 0.0. Lines after
        the answer take 0.1 away, as does in the form `"tag"` any text after it or a second tag (see `answer_tag`).
        Verdicts are `no_answer` and those of the checker. `lenient` tells whether the right answer stands in any form,
        or on the last line, or is the last number. Without a checker the reward is 0.0 and the verdict `unchecked`.
        """
        if isinstance(self._checker_of(problem), Unchecked):
            return Score(0.0, False, UNCHECKED)
        answer, checker = self.answer_form.read(completion), self._checker_of(problem)
        verdict = "no_answer" if answer.text is None else checker.verdict(answer.text, problem.answer)
        if verdict == "correct":
            return Score(1.0 - answer.deduction, True, verdict, lenient=True)
        others = () if verdict == "too_slow" else stated_answers(completion)
        lenient = any(checker.verdict(text, problem.answer) == "correct" for text in others if text != answer.text)
        score = Score(0.0, False, verdict, lenient)
        reward = max(self.form_reward - answer.deduction, 0.0) if score.well_formed else 0.0
        return Score(reward, False, verdict, lenient)

    def held_out(self, n: int) -> HeldOut:
        rows = [self._row(index) for index in self._held_out[: max(operator.index(n), 0)]]
        return HeldOut(self, rows).held_out(n)

    def problem_count(self) -> int:
        return len(self._training)

    def reference(self, problem: Row) -> str | None:
        return problem.answer or None

    def difficulty(self, problem: Row) -> float:
        return problem.difficulty

    def labels(self, problem: Row) -> dict[str, int | float | str]:
        """Returns the row's `category` and `difficulty`, if rows have them."""
        labels = {} if problem.category is None else {"category": problem.category}
        has_difficulty = self._columns.difficulty is not None or self._columns.answer_in != "whole"
        return labels | ({"difficulty": problem.difficulty} if has_difficulty else {})

    def answer(self, completion: str) -> str | None:
        """Returns what `score` reads, as `Checker.canonical` writes it; with `checkers`, with single blanks only."""
        text = self.answer_form.read(completion).text
        if text is None or self._checkers:
            return text and (" ".join(text.split()) or None)
        return self._checker.canonical(text)

    def worked_solution(self, problem: Row, rng: random.Random) -> str:
        """Returns the row's solution, if it has one, and the answer in its form."""
        if not problem.answer:
            raise NotImplementedError(f"A row without an answer has no worked solution. Received: {problem}")
        thought = f"{problem.solution}\n" if problem.solution else ""
        return f"{thought}</think>\n{self.answer_form.written(problem.answer)}"


def _make_checker(checker: str | Mapping) -> Checker:
    options = {"name": checker} if isinstance(checker, str) else dict(checker)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(f"`checker` must be a name, or a table with a `name`. Received: checker={checker!r}")
    return make_checker(name, options)
