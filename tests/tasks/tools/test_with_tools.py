import random

from keras_aha.tasks import (
    Countdown,
    CountdownProblem,
    DrawnTask,
    HeldOut,
    Multiplication,
    MultiplicationProblem,
    Observation,
    Score,
    Turn,
)
from keras_aha.tasks.tools.attempt_checker import AttemptChecker
from keras_aha.tasks.tools.calculator import Calculator
from keras_aha.tasks.tools.tool import Tool
from keras_aha.tasks.tools.with_tools import WithTools

import pytest

TASK = WithTools(Multiplication(template="compact"), [Calculator()], max_turns=3)
PROBLEM = MultiplicationProblem(23, 4)
CALL = "<calculator>23*4</calculator>"


class Guess(DrawnTask):
    """An environment of three turns: a number is higher or lower."""

    max_turns, turn_ends = 3, ("!",)

    def draw(self, rng):
        return rng.randrange(100)

    def prompt(self, problem):
        return "Guess!"

    def respond(self, problem, turns):
        guess = turns[-1].text.split()[-1].rstrip("!")
        return None if guess == str(problem) else Observation(f"{len(turns)}: no")

    def score(self, problem, completion):
        return Score(1.0, True, completion)

    def score_turns(self, problem, turns):
        return Score(1 / len(turns), True, "|".join(turn.text for turn in turns))


class Broken(Tool):
    """Answers bytes."""

    name, description, parameters = "broken", "", {"properties": {}}

    def call(self, problem):
        return b"bytes"


def test_problems_and_held_out_ones_are_the_tasks():
    assert [TASK.problem(i) for i in range(3)] == [TASK.task.problem(i) for i in range(3)]
    assert TASK.problem_count() is None and TASK.max_turns == 3 and TASK.turn_ends == ("</calculator>",)
    held_out = TASK.held_out(3)
    assert len(held_out) == 3 and held_out.problem(2) == TASK.task.held_out(3).problem(2)
    for task in (held_out, held_out.held_out(2), WithTools(HeldOut(TASK.task, [PROBLEM]), [Calculator()])):
        assert task.prompt(PROBLEM) == TASK.prompt(PROBLEM) and task.respond(PROBLEM, [Turn(CALL)]).text == "92"
    with pytest.raises(ValueError, match="must be at most"):
        WithTools(HeldOut(TASK.task, [PROBLEM]), [Calculator()]).held_out(2)


def test_what_is_scored_are_the_words_without_the_calls():
    turns = [Turn("<answer>92</answer>" + CALL, Observation("92", tool="calculator")), Turn("</think>\nNone.")]
    assert TASK.score_turns(PROBLEM, turns).reward == 0.9  # there is text after the answer
    inside = Turn("<calculator><answer>92</answer></calculator>", Observation("no", is_error=True))
    assert TASK.score_turns(PROBLEM, [inside, Turn("I give up.")]).verdict == "no_answer"
    assert TASK.score_turns(PROBLEM, [inside]).verdict == "no_answer"  # it was the last turn that there may be
    answered = Turn(CALL, Observation("<answer>92</answer>", tool="calculator"))
    assert TASK.score_turns(PROBLEM, [answered, Turn("<answer>93</answer>")]).verdict == "wrong_value"
    assert TASK.score_turns(PROBLEM, [answered, Turn("<answer>92</answer>")]).reward == 1.0


def test_an_environment_sees_its_own_turns_alone():
    task, turns = WithTools(Guess(), [Calculator()], max_turns=5), []
    assert task.max_turns == 7 and task.turn_ends == ("</calculator>", "!")
    texts = ("Half? " + CALL, "50!", CALL, "49!", CALL, "<calculator>47!")
    for text in texts:
        turns.append(Turn(text))
        turns[-1] = Turn(text, task.respond(48, turns))
    answers = [turn.observation and turn.observation.text for turn in turns]
    assert answers == ["92", "1: no", "92", "2: no", "92", None]  # the environment has had its turns
    assert task.score_turns(48, turns).verdict == "Half? \n50!|\n49!|\n<calculator>47!"


def test_turns_to_imitate():
    def turns(**habits):
        return TASK.worked_turns(PROBLEM, random.Random(0), **habits)

    called = [Turn(CALL, Observation("92", "\n<result>", "</result>\n", tool="calculator"))]
    assert turns(calls=1.0, guess_rate=0.5) == [*called, Turn("</think>\n<answer>92</answer>")]
    assert TASK.score_turns(PROBLEM, turns(calls=1.0)).correct
    slipped = turns(calls=1.0, slip_rate=1.0)
    assert slipped[0].text in ("<calculator>23*3</calculator>", "<calculator>23*5</calculator>")
    assert slipped[1].text == f"</think>\n<answer>{slipped[0].observation.text}</answer>"
    assert [turn.observation for turn in turns()] == [None] and TASK.score_turns(PROBLEM, turns()).correct
    rng = random.Random(1)
    assert 40 < sum(len(TASK.worked_turns(PROBLEM, rng, calls=0.5)) - 1 for _ in range(100)) < 60
    stops = {"functiongemma": "<start_function_response>", "gemma4": "<|tool_response>", "chatml": "<|im_end|>"}
    for form, stop in stops.items():  # which no stop string stands for
        task = WithTools(Multiplication(), [Calculator()], form=form)
        first, last = HeldOut(task, [PROBLEM]).worked_turns(PROBLEM, random.Random(0), calls=1.0)
        assert first.text == task.form.write("calculator", {"expression": "23*4"}) + stop and "92" in last.text
    with pytest.raises(ValueError, match="The habit `calls` needs the tool calculator. Received: the tools broken"):
        WithTools(Multiplication(), [Broken()]).worked_turns(PROBLEM, random.Random(0), calls=1.0)
    with pytest.raises(NotImplementedError, match="Countdown has no worked calls: leave out the habit `calls`"):
        task = WithTools(Countdown(), [Calculator()])
        task.worked_turns(task.problem(0), random.Random(0), calls=0.01)


def test_what_cannot_be_made():
    for settings in ({"form": "xml"}, {"max_turns": 0}, {"tools": []}, {"tools": [Calculator(), Calculator()]}):
        with pytest.raises(
            ValueError, match="`tools` must be one or more of different names, `form` one of tags, func"
        ):
            WithTools(**{"task": Multiplication(), "tools": [Calculator()]} | settings)
    with pytest.raises(ValueError, match="The tool `attempts` checks Countdown puzzles: leave it out.*Multiplication"):
        WithTools(Multiplication(), [AttemptChecker()])
    with pytest.raises(TypeError, match="The tool broken must return a text. Received: bytes"):
        WithTools(Multiplication(), [Broken()]).respond(PROBLEM, [Turn("<broken>{}</broken>")])
    wrong = Calculator()
    wrong.name = "answer"
    with pytest.raises(ValueError, match="In tags no tool may have the name of another tag. Received: name='answer'"):
        WithTools(Multiplication(), [wrong])
    for name, kind in (("my tool", "string"), ("a-b", "string"), ("tool", "array")):
        wrong.name, wrong.parameters = name, {"properties": {"x": {"type": kind}}}
        with pytest.raises(ValueError, match=f"names of letters, digits and _, and .*Received: name='{name}'"):
            WithTools(Multiplication(), [wrong])


@pytest.mark.parametrize(
    "expression, words",
    [
        ("(9 - 1) * 4", "Its value is 32, not 24."),
        ("9 - 1 * 1", "Its value is 8, not 24. 1: used but not given, or too often. 4: not used yet."),
        ("4 * (9 - 1) / 2 + 8", "Its value is 24, the target. 2, 8: used but not given, or too often."),
        ("24", "Its value is 24, the target. 24: used but not given, or too often. 1, 4, 9: not used yet."),
        ("9 * 4 / 1", "Its value is 36, not 24."),
        ("1 / 9", "Its value is 1/9, not 24. 4: not used yet."),
    ],
)
def test_an_attempt_is_checked_and_not_solved(expression, words):
    problem = CountdownProblem((9, 1, 4), 24)
    task = WithTools(Countdown(), [AttemptChecker()])
    observation = task.respond(problem, [Turn(f"<attempts>{expression}</attempts>")])
    assert (observation.text, observation.is_error) == (words, False)
    assert AttemptChecker().call(CountdownProblem((9, 3), 6), "9-3") == "Its value is 6, the target. It is right."
