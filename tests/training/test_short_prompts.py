import warnings

from keras_aha.models.special_tokens import prompt_ids
from keras_aha.models.tiny_gemma import tiny_tokenizer
from keras_aha.tasks import HeldOut, Score, Task
from keras_aha.training.ask import TaskError
from keras_aha.training.short_prompts import ShortPrompts

import pytest


class Lines(Task):
    """A list of lines; the second half of it is held out."""

    def __init__(self, lines):
        self.lines = lines

    def problem(self, index):
        return self.lines[index % self.problem_count()]

    def problem_count(self):
        return len(self.lines) // 2

    def prompt(self, problem):
        return problem

    def score(self, problem, completion):
        return Score(0.0, False, "wrong_value")

    def held_out(self, n):
        return HeldOut(self, self.lines[self.problem_count() :]).held_out(n)

    def reference(self, problem):
        return problem.partition("\n")[0]


LINES = [f"{i}\n" * (1 + 20 * (i % 5 == 3)) for i in range(4000)]  # every fifth is long


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def test_long_prompts_are_left_out_and_told(tokenizer):
    task = ShortPrompts(Lines(LINES), tokenizer, 20)
    with pytest.warns(UserWarning) as caught:
        assert task.problem_count() == 1600
        held_out = task.held_out(100)
    assert [str(warning.message) for warning in caught] == [
        "400 of 2000 problems to train on are left out: their prompts have more than 20 tokens.",
        "25 of the first 125 held-out problems are left out: their prompts have more than 20 tokens.",
    ]
    short = [line for line in LINES if len(line) < 10]
    assert [task.problem(i) for i in range(1600)] == short[:1600] and task.problem(1603) == short[3]  # in their order
    assert list(held_out.problems) == short[1600:1700] and held_out.prompt(short[0]) == short[0]
    assert task.reference(short[0]) == held_out.reference(short[0]) == "0"
    with warnings.catch_warnings(action="error"):
        assert ShortPrompts(Lines(short), tokenizer, 20).problem_count() == 1600


def test_the_limit_is_what_rollouts_refuse(tokenizer):
    (row,) = prompt_ids(tokenizer, ["1234\n"])
    lines = Lines(["1234\n"] * 4)
    assert ShortPrompts(lines, tokenizer, len(row)).problem_count() == 2
    with pytest.raises(TaskError, match="All 2 prompts are too long: raise max_prompt_length. Received: "):
        ShortPrompts(lines, tokenizer, len(row) - 1).problem(0)


def test_held_out_problems_that_are_too_few(tokenizer):
    task = ShortPrompts(Lines(LINES), tokenizer, 20)
    with pytest.raises(ValueError, match="`n` must be at most 1600: no more held-out problems have prompts"):
        task.held_out(1601)
    with pytest.raises(ValueError, match="`n` must be at most 2000: there are only 2000"):
        task.held_out(2001)
