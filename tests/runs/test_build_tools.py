import random

from keras_aha.models.tiny_gemma import tiny_tokenizer
from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.sections import RecipeError
from keras_aha.runs.build_task import build_held_out, build_priming_task, build_task
from keras_aha.runs.check_marks import check_tool_form
from keras_aha.runs.conditions import conditions
from keras_aha.tasks import Turn
from keras_aha.tasks.tools.with_tools import WithTools

import pytest

RECIPE = Recipe.load("multiplication_tiny").override('tools=[{name="calculator"}]')
MIXED = """tasks=[{name="multiplication", template="compact", habits={calls=1.0}}, {name="countdown"}]"""
OWN = """
from keras_aha.tasks.tools.tool import Tool

def double(number: int, problem) -> int:
    "Doubles a number."
    return 2 * number

class Echo(Tool):
    name, description = "echo", "Repeats a text."
    parameters = {"properties": {"text": {"type": "string"}}, "required": ["text"]}

    def __init__(self, times=1):
        self.times = times

    def call(self, problem, text):
        return text * self.times
"""


def test_tools_are_put_around_what_is_asked_and_imitated():
    task = build_task(RECIPE.override(["turns.max_turns=3", "turns.declare=false"]))
    assert isinstance(task, WithTools) and list(task.tools) == ["calculator"] and task.max_turns == 3
    assert task.prompt(task.problem(0)) == task.task.prompt(task.problem(0))
    held_out = build_held_out(RECIPE.override("turns.tool_form=gemma4"))
    assert len(held_out) == RECIPE.evaluation.puzzles and held_out.prompt(held_out.problem(0)).startswith("<|tool>decl")
    assert conditions(RECIPE, "x")["task"] == "multiplication(digits=(1, 2)) with calculator"
    recipe = RECIPE.override(["priming.habits={}", MIXED])
    mixture, primed = build_task(recipe), build_priming_task(recipe)
    assert [list(task.tools) for task in mixture.tasks + primed.tasks] == [["calculator"]] * 4
    assert mixture.max_turns == 8 and mixture.turn_ends == ("</calculator>",)
    turns = [primed.worked_turns(primed.problem(i), random.Random(i)) for i in range(2)]
    assert [len(turn) for turn in turns] == [2, 1] and turns[0][0].observation.tool == "calculator"
    alone = RECIPE.override(["priming.habits={}", "priming." + MIXED])
    assert all(isinstance(task, WithTools) for task in build_priming_task(alone).tasks)


def test_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "own_tools.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    task = build_task(RECIPE.override('tools=[{name="own_tools:double"}, {name="own_tools:Echo", times=2}]'))
    texts = ('<double>{"number": 21}</double>', "<echo>ab</echo>")
    assert [task.respond(task.problem(0), [Turn(text)]).text for text in texts] == ["42", "abab"]
    for tools, sentence in (
        ('[{name="own_tools:duble"}]', r"has no function 'duble'; the nearest is own_tools:double. Received: tools\[0"),
        ('[{name="own_tools:Echo", time=2}]', r"Unknown key tools\[0\].time; the nearest is tools\[0\].times"),
        ('[{name="own_tools:double", times=2}]', r"Unknown key tools\[0\].times"),
        (
            '[{name="os:kill"}]',
            r"\[tools\[0\]\]: A function that is a tool needs a docstring.*Received: kill\(pid, signal",
        ),
        ('[{name="missing_tools:x"}]', "cannot be imported: ModuleNotFoundError"),
    ):
        with pytest.raises(RecipeError, match=sentence):
            build_task(RECIPE.override(f"tools={tools}"))


@pytest.mark.parametrize(
    "change, sentence",
    [
        ("tools[0].name=calculater", r"No tool is called 'calculater'; the nearest is calculator; there is attempts, "),
        ("tools[0].digits=3", r"Unknown key tools\[0\].digits"),
        (
            "tools[0].name=attempts",
            r"\[tools\]: The tool `attempts` checks Countdown puzzles: leave it out, or ask no ",
        ),
        ('tools=[{name="python", seconds=0}]', r"\[tools\[0\]\]: `seconds` must be an integer from 1 to 600"),
        ("turns.tool_form=xml", 'turns.tool_form must be "tags" or "functiongemma" or "gemma4" or "chatml"'),
    ],
)
def test_what_cannot_be_made(change, sentence):
    with pytest.raises(RecipeError, match=sentence):
        build_task(RECIPE.override(change))


@pytest.mark.parametrize("form, lacks", [("gemma4", r"<tool_call\|>"), ("chatml", r"<\|im_end\|>"), ("tags", None)])
def test_marks_of_calls_must_be_tokens(form, lacks):
    recipe = RECIPE.override([f"turns.tool_form={form}", "turns.declare=false"])
    if lacks is None:
        check_tool_form(tiny_tokenizer(), recipe)
        return
    with pytest.raises(RecipeError, match=f"no tokens .*{lacks}.*: set turns.tool_form=tags"):
        check_tool_form(tiny_tokenizer(), recipe)
