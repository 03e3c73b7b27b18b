import json
import re

from keras_aha.tasks import Multiplication, Turn
from keras_aha.tasks.tools.calculator import Calculator
from keras_aha.tasks.tools.forms import TOOL_FORMS
from keras_aha.tasks.tools.tool import Tool
from keras_aha.tasks.tools.with_tools import WithTools

import pytest


class Weather(Tool):
    """The example of Google's pages on FunctionGemma and Gemma 4, with an argument more that may be left out."""

    name = "get_current_temperature"
    description = "Gets the current temperature for a given location."
    parameters = {
        "properties": {
            "location": {"type": "string", "description": "The city name, e.g. San Francisco"},
            "unit": {"type": "string", "enum": ["celsius", "kelvin"]},
        },
        "required": ["location"],
    }

    def call(self, problem, location, unit="celsius"):
        return f"{location}: 15 {unit}"


class Sun(Tool):
    """A tool of numbers."""

    name, description = "sun", "Says how high the sun stands."
    kinds = {"hour": "integer", "latitude": "number", "summer": "boolean"}
    parameters = {"properties": {key: {"type": kind} for key, kind in kinds.items()}, "required": ["hour"]}

    def call(self, problem, hour, latitude=50.5, summer=False):
        return f"{hour} {latitude} {summer}"


QUESTION = Multiplication(template="compact").problem(0)
TASKS = {form: WithTools(Multiplication(template="compact"), [Weather(), Sun()], form=form) for form in TOOL_FORMS}
FUNCTION, GEMMA_4 = "<start_function_call>call:{}<end_function_call>".format, "<|tool_call>call:{}<tool_call|>".format
CHATML = "<tool_call>\n{}\n</tool_call>".format
# What the published templates write of a call, and of its answer; FunctionGemma's and Gemma 4's end at a stop token.
PUBLISHED = {
    "functiongemma": (
        FUNCTION("get_current_temperature{location:<escape>London<escape>}"),
        "response:get_current_temperature{value:<escape>London: 15 celsius<escape>}<end_function_response>",
    ),
    "gemma4": (
        GEMMA_4('get_current_temperature{location:<|"|>London<|"|>}'),
        'response:get_current_temperature{value:<|"|>London: 15 celsius<|"|>}<tool_response|>',
    ),
    "chatml": (
        CHATML('{"name": "get_current_temperature", "arguments": {"location": "London"}}'),
        "\n<|im_start|>user\n<tool_response>\nLondon: 15 celsius\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
    ),
    "tags": (
        '<get_current_temperature>{"location": "London"}</get_current_temperature>',
        "\n<result>London: 15 celsius</result>\n",
    ),
}


def answer(form, text):
    return TASKS[form].respond(QUESTION, [Turn(text)])


@pytest.mark.parametrize("form", TOOL_FORMS)
def test_a_call_is_answered_as_the_template_says(form):
    call, written = PUBLISHED[form]
    assert TASKS[form].form.write("get_current_temperature", {"location": "London"}) == call
    for text in (call, f"It is in Europe.\n{call}\n"):
        observation = answer(form, text)
        assert (observation.written, observation.tool, observation.is_error) == (written, Weather.name, False)
    call = TASKS[form].form.write("sun", {"hour": -3, "latitude": 1.5, "summer": True})
    assert answer(form, call).text == "-3 1.5 True"
    assert answer(form, "It is 15.") is None and answer(form, "") is None


DECLARED = (
    "declaration:get_current_temperature{{description:{0}Gets the current temperature for a given location.{0},"
    "parameters:{{properties:{{location:{{description:{0}The city name, e.g. San Francisco{0},type:{0}STRING{0}}},"
    "unit:{{enum:[{0}celsius{0},{0}kelvin{0}],type:{0}STRING{0}}}}},required:[{0}location{0}],type:{0}OBJECT{0}}}}}"
)


def test_declarations_stand_where_the_family_reads_them():
    def prompt(form, template, *tools):
        return WithTools(Multiplication(template=template), tools or [Weather()], form=form).prompt(QUESTION)

    rule = "You are a model that can do function calling with the following functions"
    declared = f"<start_function_declaration>{DECLARED.format('<escape>')}<end_function_declaration>"
    user = "<start_of_turn>user\nWhat is "
    begin = f"<start_of_turn>developer\n{rule}{declared}<end_of_turn>\n{user}"
    assert prompt("functiongemma", "functiongemma").startswith(begin)
    declared = "<|tool>" + DECLARED.format('<|"|>') + "<tool|><turn|>\n<|turn>user\nWhat is "
    assert prompt("gemma4", "gemma4").startswith("<|turn>system\n" + declared)
    assert prompt("gemma4", "gemma4_thinking").startswith("<|turn>system\n<|think|>\n" + declared)
    lines = prompt("chatml", "qwen3", Calculator(), Weather()).partition("\n</tools>")[0].splitlines()
    assert lines[:2] == ["<|im_start|>system", "# Tools"] and lines[-3] == "<tools>"
    assert json.loads(lines[-1])["function"]["parameters"] == {"type": "object"} | Weather.parameters
    tags = "<calculator>expression</calculator>: works out"
    rest = '<sun>{"hour": integer, "latitude": number or left out, "summer": boolean or left out}</sun>: Says how'
    asked = prompt("tags", "gemma", Calculator(), Sun())  # a family without a system turn
    assert asked.startswith("<start_of_turn>user\nYou may call tools.") and tags in asked and rest in asked
    assert asked.count("<start_of_turn>") == 2
    assert prompt("tags", "llama3.1").count("system<|end_header_id|>\n\nCutting Knowledge Date") == 1
    assert prompt("tags", "compact").startswith("You may call tools.")
    silent = WithTools(Multiplication(template="gemma"), [Calculator()], declare=False)
    assert silent.prompt(QUESTION) == Multiplication(template="gemma").prompt(QUESTION)


def test_declarations_follow_the_systems_words():
    form = TASKS["gemma4"].form
    asked = form.declare("<|turn>system\nBe concise.<turn|>\n<|turn>user\nHi<turn|>\n")
    assert asked.startswith("<|turn>system\nBe concise.<|tool>declaration:") and asked.count("<|turn>system") == 1
    asked = TASKS["chatml"].form.declare("<|im_start|>system\nBe concise.<|im_end|>\n")
    assert asked.startswith("<|im_start|>system\nBe concise.\n\n# Tools\n\nYou may")


@pytest.mark.parametrize(
    "form, text, wrong",
    [
        ("tags", "</sun>", "must begin with <sun> and end with </sun>"),
        ("tags", "<sun>1</sun> <sun>{}</sun>", "one call a turn"),
        ("tags", "<get_current_temperature><sun>{}</sun>", "must begin with <sun>"),
        ("tags", "<sun><get_current_temperature>{}</sun>", "one call a turn"),
        ("tags", "<sun>5</sun>", "must be a JSON object"),
        ("tags", "<sun>{hour: 5}</sun>", "cannot be read at character 2: Expecting property name"),
        ("tags", '<sun>{"hour": 1, "hour": 2}</sun>', "given once only"),
        ("tags", f"<sun>{'[' * 3000}</sun>", "nested too deeply|cannot be read"),
        ("tags", '<sun>{"hour": ' + "1" * 4000 + "}</sun>", "at most 4000 characters"),
        ("tags", '<sun>{"hour": ' + "1" * 3900 + "}</sun>", "hour of sun must be a number of 64 bits"),
        ("tags", '<sun>{"hour": 1, "latitude": NaN}</sun>', "latitude of sun must be a number of 64 bits"),
        ("tags", '<sun>{"hour": 1, "latitude": 1e999}</sun>', "latitude of sun must be a number of 64 bits"),
        ("tags", '<sun>{"hour": true}</sun>', "hour of sun must be of the type integer"),
        ("tags", '<sun>{"hour": 1.0}</sun>', "hour of sun must be of the type integer"),
        ("tags", '<sun>{"hour": 1, "summer": 1}</sun>', "summer of sun must be of the type boolean"),
        ("tags", '<sun>{"hour": [1]}</sun>', "hour of sun must be of the type integer"),
        ("tags", "<sun>{}</sun>", "hour of sun is missing"),
        ("tags", '<sun>{"hours": 1}</sun>', "hours of sun does not exist; the nearest is hour. There is hour, "),
        ("functiongemma", FUNCTION("sum{hour:1}"), "No tool is called sum; the nearest is sun. There is get_"),
        ("functiongemma", FUNCTION("sun{hour:1}") + " x", "nothing may follow it"),
        ("functiongemma", FUNCTION("sun{hour:1}") * 2, "one call a turn"),
        ("functiongemma", FUNCTION("sun{hour:1"), "must be written as call:NAME{"),
        ("functiongemma", FUNCTION("sun{hour:1,}"), "cannot be read from 'hour:1,' on"),
        ("functiongemma", FUNCTION("sun{hour:1,hour:2}"), "given once only"),
        ("functiongemma", FUNCTION("sun{hour:<escape>1<escape>}"), "must be of the type integer"),
        ("functiongemma", FUNCTION("sun{hour:one}"), "JSON cannot be read"),
        ("functiongemma", FUNCTION("sun{hour:<escape>x<escape>y<escape>}"), "from 'hour:<escape>x"),
        ("functiongemma", FUNCTION("sun{hour:{a:1}}"), "cannot be read from 'hour:{a:1}' on"),
        ("gemma4", GEMMA_4('get_current_temperature{location:<|"|>x<|"|>,unit:<|"|>K<|"|>}'), "one of celsius, kelvin"),
        ("gemma4", "<|tool_call>", "must begin with"),
        ("chatml", "<tool_call>", "must begin with"),
        ("chatml", CHATML('{"name": "sun"}'), "must have a name, which is a text, and arguments"),
        ("chatml", CHATML('{"name": "sun", "arguments": "{}"}'), "must have a name"),
        ("chatml", CHATML('{"name": ["sun"], "arguments": {}}'), "must have a name"),
        ("chatml", CHATML('{"name": "sun", "arguments": {}, "x": 1}'), "must have a name"),
        ("chatml", CHATML('{"name": "eval", "arguments": {}}'), "No tool is called eval. There is"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_told_what_is_wrong(form, text, wrong):
    observation = answer(form, text)
    assert observation.is_error and not observation.done
    assert re.search(wrong, observation.text) and len(observation.text) < 200
