"""`RowColumns`: which columns of a file make a `Row`."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from keras_aha.tasks.answer_form import ANSWER_FORMS
from keras_aha.tasks.chat import check_messages
from keras_aha.tasks.column_text import ColumnText
from keras_aha.tasks.row import Row

_CALCULATION = re.compile("<<[^<>]*>>")  # GSM8K's notes for a calculator, as in 48/2 = <<48/2=24>>24


@dataclass(frozen=True)
class RowColumns:
    """The arguments of `Rows` that name columns; `template` is that by which messages are written, and rows without
    an answer are an error if `needs_answer`.

    Raises:
        ValueError: if `prompt` is neither a column nor a text with columns in it.
    """

    prompt: str
    messages: str | None
    answer: str
    answer_in: str
    category: str | None
    difficulty: str | None
    solution: str
    template: str
    needs_answer: bool = True

    def __post_init__(self):
        object.__setattr__(self, "_asked", ColumnText(self.prompt, "prompt"))

    @property
    def needed(self) -> list[str]:
        """The columns that each row must have."""
        asked = self._asked.columns if self.messages is None else [self.messages]
        answer = self.answer if self.needs_answer else None
        return [column for column in (*asked, answer, self.category, self.difficulty) if column is not None]

    @property
    def optional(self) -> list[str]:
        """The columns that some rows may lack."""
        return [self.solution] if self.needs_answer else [self.solution, self.answer]

    def row(self, texts: Mapping[str, str | None]) -> Row:
        """The row of a file's texts by column; ValueError if it is none."""
        messages = ()
        if self.messages is None:
            prompt = self._asked.filled(texts)
        else:
            messages = _read_messages(texts[self.messages], self.template)
            prompt = messages[-1]["content"]
        if not prompt.strip():
            raise ValueError(f"The prompt must have words. Received: {prompt!r}")
        answer, solution = self._answer(texts[self.answer])
        solution = (texts[self.solution] or solution).strip()
        difficulty = solution.count("\n") + bool(solution)
        if self.difficulty is not None:
            difficulty = _read_difficulty(texts[self.difficulty], self.difficulty)
        return Row(prompt, answer, texts.get(self.category), difficulty, solution, messages)

    def _answer(self, text: str | None) -> tuple[str, str]:
        """The answer that is expected, an empty text if there is none, and what the column says beside it."""
        if text is None:
            return "", ""
        if self.answer_in == "whole":
            return text.strip(), ""
        form = ANSWER_FORMS[self.answer_in]
        answer = form.read(text).text
        if answer is None:
            raise ValueError(
                f"`{self.answer}` must have its answer as in {form.written('…')}. Received: {text[:200]!r}"
            )
        if self.answer_in == "boxed":
            return answer.strip(), text
        solution = text.rstrip().rpartition(form.before.strip() or "\n")[0]
        return answer.strip(), _CALCULATION.sub("", solution) if self.answer_in == "####" else solution


def _read_messages(text: str, template: str) -> tuple[Mapping[str, str], ...]:
    """The messages up to the last one of the user."""
    try:
        messages = json.loads(text)
    except (ValueError, RecursionError):
        messages = text
    check_messages(messages, template.removesuffix("_thinking"))
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages or messages[-1]["role"] != "user":
        raise ValueError(f"`messages` must have a user's that is to be answered. Received: {text[:200]!r}")
    return tuple(messages)


def _read_difficulty(text: str, column: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"`{column}` must be a number. Received: {text[:200]!r}")
    return int(number) if number.is_integer() else number
