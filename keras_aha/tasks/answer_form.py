"""Answer forms: where an answer stands in a text, what a policy is told of it, and how one is written."""

import re
from collections.abc import Callable
from typing import NamedTuple

from keras_aha.tasks.answer_tag import FORM_DEDUCTION, Answer, read_answer

_BRACE = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
_NUMBER = re.compile(r"[+-]?\$?[0-9](?:[0-9,]*[0-9])?(?:\.[0-9]+)?(?:/[0-9]+)?%?")


class AnswerForm(NamedTuple):
    """A way to mark an answer.

    Attributes:
        rule: what a prompt asks for.
        before, after: what stands around an answer.
        read: text → the answer in it, in time that is linear in the text, whatever is in it.
    """

    rule: str
    before: str
    after: str
    read: Callable[[str], Answer]

    def written(self, answer: str) -> str:
        """Returns an answer as a text states it, in one line if that is how it ends."""
        return f"{self.before}{answer if self.after else ' '.join(answer.split())}{self.after}"


def stated_answers(text: str) -> list[str]:
    """What might be meant as the answer, each once: by any form, on the last line behind `is` or a colon, or the last
    number."""
    stated = [form.read(text).text for form in ANSWER_FORMS.values()]
    last = _read_last_line(text).text or ""
    stated.append(re.split(r": | is ", last)[-1].strip("*_ ").rstrip(".*_ "))
    stated += [number[0] for number in list(_NUMBER.finditer(text))[-1:]]
    return [answer for answer in dict.fromkeys(stated) if answer]


def _read_boxed(text: str) -> Answer:
    r"""The `\boxed{…}` that begins last, of those whose braces close; as TeX reads it, `\{` is no brace."""
    opened, start, end = [], -1, -1
    for mark in _BRACE.finditer(text):
        if mark[0] == "}" and opened:
            begin, is_box = opened.pop()
            if is_box and begin > start:
                start, end = begin, mark.start()
        elif mark[0].endswith("{") and mark[0] != r"\{":
            opened.append((mark.end(), len(mark[0]) > 1))
    return Answer(None, 0.0) if start < 0 else Answer(text[start:end], _deduction(text, end))


def _read_behind_mark(text: str) -> Answer:
    """What stands behind the last `####`, to the end of its line."""
    before, mark, answer = text.rpartition("####")
    return Answer(answer.lstrip(" \t").partition("\n")[0], _deduction(text, len(before))) if mark else Answer(None, 0.0)


def _read_last_line(text: str) -> Answer:
    """The last line that is not blank."""
    return Answer(text.rstrip().rpartition("\n")[2].strip() or None, 0.0)


def _deduction(text: str, end: int) -> float:
    """For lines after the one in which an answer ends."""
    line_end = text.find("\n", end)
    return FORM_DEDUCTION * (line_end >= 0 and bool(text[line_end:].strip()))


ANSWER_FORMS = {
    "tag": AnswerForm("give only the answer inside <answer> </answer> tags", "<answer>", "</answer>", read_answer),
    "boxed": AnswerForm(r"give only the answer inside \boxed{}", r"\boxed{", "}", _read_boxed),
    "####": AnswerForm("give only the answer on the last line, after ####", "#### ", "", _read_behind_mark),
    "last_line": AnswerForm("give only the answer on the last line", "", "", _read_last_line),
}
