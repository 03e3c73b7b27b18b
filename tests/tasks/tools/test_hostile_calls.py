"""Ten thousand calls that try to break a parser, to be evaluated, or to cost time."""

import builtins
import os
import random
import re
import time

from keras_aha.tasks import Multiplication, MultiplicationProblem, Turn
from keras_aha.tasks.tools.calculator import Calculator
from keras_aha.tasks.tools.forms import TOOL_FORMS
from keras_aha.tasks.tools.tool import Tool
from keras_aha.tasks.tools.with_tools import WithTools

import pytest

PROBLEM = MultiplicationProblem(23, 4)
PIECES = [
    *("<", ">", "</", "{", "}", "[", "]", '"', ":", ",", "call:", "<escape>", '<|"|>', "<tool_call>", "</tool_call>"),
    *("<start_function_call>", "<end_function_call>", "<|tool_call>", "<tool_call|>", "<calculator>", "</calculator>"),
    *("<keep>", "</keep>", '"name"', '"arguments"', "calculator", "keep", "expression", "text", "count", "\\u0000"),
    *("__import__('os').system('touch hostile')", "{0.__class__}", "%s", "`id`", "eval(1)", "9**9**9"),
    *("NaN", "-Infinity", "1e999", "9" * 400, "null", "true", "\x00", "\ud800", "\u202e", "\U0001f600", "٣", " ", "\n"),
]  # fmt: skip
HEAPS = ["[", "{", '{"a":', "(", "<calculator>", "<escape>", "1", "-", "\\", "a:1,", '"', " ", "\u0663"]


class Keep(Tool):
    """Keeps what it is given."""

    name, description = "keep", "Keeps a text."
    parameters = {"properties": {"text": {"type": "string"}, "count": {"type": "integer"}}, "required": ["text"]}

    def call(self, problem, text, count=0):
        assert type(text) is str and type(count) is int and abs(count) < 2**63
        return f"{len(text)} {count}"


def hostile(rng, form):
    name, arguments = rng.choice([("calculator", {"expression": "23*4"}), ("keep", {"text": "a}b", "count": 3})])
    call = form.write(name, arguments)
    kind = rng.randrange(4)
    if kind == 0:  # a call with a few edits
        for _ in range(rng.randint(1, 4)):
            start = rng.randrange(len(call) + 1)
            call = call[:start] + rng.choice([*PIECES, ""]) + call[start + rng.choice((0, 0, 1, 3)) :]
        return call
    if kind == 1:  # anything inside the marks
        inside = "".join(rng.choices(PIECES, k=rng.randint(0, 12)))
        return rng.choice((f"<{name}>{inside}</{name}>", f"{form.begin}{inside}{form.end}", inside))
    if kind == 2:  # bytes
        return call[: rng.randrange(len(call))] + rng.randbytes(rng.randint(0, 60)).decode("utf-8", "surrogateescape")
    heap = rng.choice(HEAPS) * rng.choice((100, 1000, 3900))  # and a heap, in the place of an argument
    return call.replace(rng.choice(("23*4", "a}b", "3", '"', name)), heap)


@pytest.mark.parametrize("name", TOOL_FORMS)
def test_a_hostile_call_gets_an_answer_and_runs_nothing(name, tmp_path, monkeypatch):
    def refused(*args, **kwargs):
        raise AssertionError("Something was evaluated.")

    monkeypatch.chdir(tmp_path)
    task = WithTools(Multiplication(), [Calculator(), Keep()], form=name)
    rng, answers, start = random.Random(name), [], time.process_time()
    for module, function in ((builtins, "eval"), (builtins, "exec"), (os, "system")):
        monkeypatch.setattr(module, function, refused)
    for _ in range(2500):
        observation = task.respond(PROBLEM, [Turn(hostile(rng, task.form))])
        answers.append(observation)
        if observation is not None:
            assert len(observation.text) < 300 and not observation.done
            assert observation.before in (task.form.around(observation.tool)[0], *unknown(task, observation))
    monkeypatch.undo()
    assert time.process_time() - start < 10 and not (tmp_path / "hostile").exists()
    told = [observation for observation in answers if observation is not None]
    assert len(told) > 500 and len({observation.text for observation in told if observation.is_error}) > 50
    assert any(not observation.is_error for observation in told)


def unknown(task, observation):
    """What stands before the answer of a tool that there is not: the marks, and a name of letters alone."""
    name = observation.before.removeprefix("response:").partition("{")[0]
    return [task.form.around(name)[0]] if re.fullmatch(r"[A-Za-z0-9_]{1,64}", name) else []
