import random
import re

from keras_aha.evaluation.behaviours import count_behaviours
from keras_aha.tasks import Signs, SignsProblem
from keras_aha.tasks.signs import TEMPLATES

import pytest
from hypothesis import given
from hypothesis import strategies as st

PROBLEM = SignsProblem((9, 1, 4), 2)
TASK = Signs(max_number=9, max_target=30, template="compact")

SCORES = [
    ("so <answer>(9-1)/4</answer>", 1.0, "correct"),
    ("<answer> ( 9 - 1 ) / 4 = 2 </answer>", 1.0, "correct"),
    ("<answer>(9-1)/4</answer> yes", 0.9, "correct"),
    ("<answer>1</answer><answer>(9-1)/4</answer>!", 0.8, "correct"),
    ("<answer>(9-1)/4</answer><answer>(9-1)*4</answer>", 0.0, "wrong_value"),
    ("<answer>(9-1)/4=3</answer>", 0.0, "wrong_value"),
    ("<answer>9-1/4</answer>", 0.0, "wrong_value"),
    ("<answer>9/(1-1)*4</answer>", 0.0, "wrong_numbers"),
    ("<answer>(9-(4/1))</answer>", 0.0, "wrong_numbers"),
    ("<answer>2</answer>", 0.0, "wrong_numbers"),
    ("<answer>9?1?4</answer>", 0.0, "not_an_expression"),
    ("<answer>(\u0669-1)/4</answer>", 0.0, "not_an_expression"),  # an Arabic digit, which int() reads
    (f"<answer>{'(' * 999}9-1)/4</answer>", 0.0, "too_long"),
    ("9-1=8,8/4=2 yes", 0.0, "no_answer"),
]


@pytest.mark.parametrize("completion, reward, verdict", SCORES)
def test_scores(completion, reward, verdict):
    score = TASK.score(PROBLEM, completion)
    assert score.reward == pytest.approx(reward) and (score.correct, score.verdict) == (verdict == "correct", verdict)


@given(st.lists(st.sampled_from([*"914+-*/=() \n\u00b2", "(9-1)", "/4", "<answer>", "</answer>"])).map("".join))
def test_only_a_solution_is_right(text):
    score = TASK.score(PROBLEM, text)
    answers = re.findall(r"<answer>((?:(?!</?answer>).)*)</answer>", text, re.DOTALL)
    said = re.sub(r"\s", "", answers[-1]).partition("=")[0] if answers else ""
    right = score.correct and re.findall(r"\d+", said) == ["9", "1", "4"] and eval(said) == 2
    assert score.correct == right and (score.reward >= 0.8 if right else score.reward == 0)
    assert (TASK.answer(text) is None) == (score.verdict in ("no_answer", "not_an_expression", "too_long"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_prompts(name):
    prompt = Signs(template=name).prompt(PROBLEM)
    assert "9?1?4=2" in prompt and prompt.endswith(("<think>\n", "<|channel>thought\n")) and "{" not in prompt
    assert TASK.score(PROBLEM, prompt).verdict == ("no_answer" if name == "compact" else "wrong_numbers")
    assert TASK.prompt(PROBLEM) == "9?1?4=2.\n<think>\n"


def test_problems_are_small_and_solvable_and_a_quarter_is_held_out():
    for problem in [TASK.problem(i) for i in range(300)]:
        assert max(problem.numbers) <= 9 and 1 <= problem.target <= 30 and not TASK.is_held_out(problem)
    held_out = {str(problem) for problem in TASK.held_out(50).problems}
    assert len(held_out) == 50 and not any(str(TASK.problem(i)) in held_out for i in range(2000))


def test_a_worked_solution():
    right, end = "9-1=8,8/4=2", "\n</think>\n<answer>(9-1)/4</answer>"
    assert TASK.worked_solution(PROBLEM, random.Random(0), straight=True) == f"{right} yes{end}"
    solutions = {TASK.worked_solution(PROBLEM, random.Random(i)) for i in range(300)}
    assert {f"9-1=8,8-4=4 no\n{right} yes{end}", f"{right} yes{end}"} <= solutions
    assert TASK.worked_solution(PROBLEM, random.Random(0), straight=True, restate=True) == f"{right}:2 yes{end}"
    plain = {TASK.worked_solution(PROBLEM, random.Random(i), max_attempts=1, verdicts=False) for i in range(300)}
    assert f"{right}{end}" in plain and len(plain) == 9  # of 16: the others have a value above 30 or a fraction


def test_worked_solutions_are_right_and_straight_ones_turn_back_nowhere():
    attempts = []
    for i in range(1000):
        problem, rng = TASK.problem(i), random.Random(i)
        searched, straight = (TASK.worked_solution(problem, rng, straight=straight) for straight in (False, True))
        assert TASK.score(problem, searched).reward == TASK.score(problem, straight).reward == 1.0
        counts, others = count_behaviours(searched), count_behaviours(straight)
        assert counts.attempts == counts.verifications == counts.backtracks + 1 == searched.count(",")
        assert (others.attempts, others.verifications, others.backtracks) == (1, 1, 0) and "no" not in straight
        assert not counts.slips and not others.slips
        attempts.append(counts.attempts)
    assert 1 in attempts and max(attempts) > 5
    given_up = [TASK.worked_solution(PROBLEM, random.Random(i), give_up_rate=0.5) for i in range(200)]
    assert 0.2 < sum(TASK.score(PROBLEM, text).correct for text in given_up) / 200 < 0.6
    assert all(count_behaviours(text).verifications == text.count(",") for text in given_up)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"max_number": 0}, "max_number must be an integer from 1. Received: max_number=0"),
        ({"max_target": 2.5}, "Received: max_target=2.5"),
        ({"template": "{x}"}, r"the field[s]? \{puzzle\} and no others. Received: template='\{x\}'"),
    ],
)
def test_bad_arguments(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Signs(**arguments)
