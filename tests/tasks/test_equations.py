import random
import re

from keras_aha.evaluation.behaviours import count_behaviours
from keras_aha.tasks import EquationProblem, Equations
from keras_aha.tasks.equations import TEMPLATES

import pytest
from hypothesis import given
from hypothesis import strategies as st

PROBLEM = EquationProblem("*+", 3, 4, x=5)
TASK = Equations(max_number=9, max_target=30, template="compact")

SCORES = [
    ("so <answer>(5*3)+4</answer>", 1.0, "correct"),
    ("<answer> 5 * 3 + 4 = 19 </answer>", 1.0, "correct"),
    ("<answer>(5*3)+4</answer> yes", 0.9, "correct"),
    ("<answer>1</answer><answer>(5*3)+4</answer>!", 0.8, "correct"),
    ("<answer>(5*3)+4</answer><answer>(4*3)+4</answer>", 0.0, "wrong_value"),
    ("<answer>(5*3)+4=16</answer>", 0.0, "wrong_value"),
    ("<answer>(3*5)+4</answer>", 0.0, "wrong_value"),
    ("<answer>(5+3)*4</answer>", 0.0, "wrong_value"),
    ("<answer>5</answer>", 0.0, "wrong_value"),
    ("<answer>x=5</answer>", 0.0, "not_an_expression"),
    ("<answer>(\u0665*3)+4</answer>", 0.0, "not_an_expression"),  # an Arabic digit, which int() reads
    (f"<answer>{'(' * 999}5*3+4</answer>", 0.0, "too_long"),
    ("5*3=15,15+4=19 yes", 0.0, "no_answer"),
]


@pytest.mark.parametrize("completion, reward, verdict", SCORES)
def test_scores(completion, reward, verdict):
    score = TASK.score(PROBLEM, completion)
    assert score.reward == pytest.approx(reward) and (score.correct, score.verdict) == (verdict == "correct", verdict)


@given(st.lists(st.sampled_from([*"53+*4-=()x \n\u00b2", "5*3", "+4", "<answer>", "</answer>"])).map("".join))
def test_only_the_solution_is_right(text):
    score = TASK.score(PROBLEM, text)
    answers = re.findall(r"<answer>((?:(?!</?answer>).)*)</answer>", text, re.DOTALL)
    said = re.sub(r"[()\s]", "", answers[-1]) if answers else ""
    right = score.correct and re.fullmatch(r"5\*3\+4(=19)?|5\*3--4(=19)?", said)
    assert score.correct == bool(right) and (score.reward >= 0.8 if right else score.reward == 0)
    assert (TASK.answer(text) is None) == (score.verdict in ("no_answer", "not_an_expression", "too_long"))


@pytest.mark.parametrize(
    "signs, equation", [("*+", "(x*3)+4=19"), ("*-", "(x*3)-4=11"), ("+*", "(x+3)*4=32"), ("-*", "(x-3)*4=8")]
)
def test_its_text_says_what_is_computed(signs, equation):
    problem = EquationProblem(signs, 3, 4, x=5)
    left, target = equation.split("=")
    assert str(problem) == equation and eval(left, {"x": 5}) == int(target) == problem.target
    assert TASK.prompt(problem) == f"{equation}.\n<think>\n"


@pytest.mark.parametrize("name", TEMPLATES)
def test_prompts(name):
    prompt = Equations(template=name).prompt(PROBLEM)
    assert "(x*3)+4=19" in prompt and prompt.endswith("<think>\n") and "{" not in prompt


def test_problems_are_small_and_have_one_solution():
    for problem in [TASK.problem(i) for i in range(300)]:
        assert all(1 <= value <= 30 for value in problem.values(problem.x))
        assert [x for x in range(-99, 99) if problem.values(x)[1] == problem.target] == [problem.x]
    held_out = {str(problem) for problem in TASK.held_out(50).problems}
    assert len(held_out) == 50 and not any(str(TASK.problem(i)) in held_out for i in range(2000))


def test_a_worked_solution():
    lines = {5: "5*3=15,15+4=19 yes", 4: "4*3=12,12+4=16 no"}
    end = "\n</think>\n<answer>(5*3)+4</answer>"
    assert TASK.worked_solution(PROBLEM, random.Random(0), straight=True) == lines[5] + end
    solutions = {TASK.worked_solution(PROBLEM, random.Random(i)) for i in range(200)}
    assert {f"{lines[4]}\n{lines[5]}{end}", lines[5] + end} <= solutions


def test_worked_solutions_are_right_and_straight_ones_turn_back_nowhere():
    guesses = []
    for i in range(1000):
        problem, rng = TASK.problem(i), random.Random(i)
        searched, straight = (TASK.worked_solution(problem, rng, straight=straight) for straight in (False, True))
        assert TASK.score(problem, searched).reward == TASK.score(problem, straight).reward == 1.0
        counts, others = count_behaviours(searched), count_behaviours(straight)
        assert counts.attempts == counts.verifications == counts.backtracks + 1 == searched.count(",")
        assert (others.attempts, others.verifications, others.backtracks) == (1, 1, 0) and "no" not in straight
        assert not counts.slips and not others.slips
        guesses.append(counts.attempts)
    assert 1 in guesses and max(guesses) > 5
    given_up = TASK.worked_solution(PROBLEM, random.Random(1), max_attempts=1, verdicts=False)
    assert re.fullmatch(r"(\d)\*3=\d+,\d+\+4=\d+\n</think>\n<answer>\(\1\*3\)\+4</answer>", given_up)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"max_number": 1}, "max_number must be an integer from 2. Received: max_number=1"),
        ({"max_target": 2.5}, "Received: max_target=2.5"),
        ({"template": "{x}"}, r"the fields \{equation\} and no others. Received: template='\{x\}'"),
    ],
)
def test_bad_arguments(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Equations(**arguments)
