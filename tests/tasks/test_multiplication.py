import random
import re

from keras_aha.tasks import Multiplication, MultiplicationProblem
from keras_aha.tasks.multiplication import TEMPLATES

import pytest
from hypothesis import given
from hypothesis import strategies as st

PROBLEM = MultiplicationProblem(23, 4)

SCORES = [
    ("so <answer>92</answer>", 1.0, "correct"),
    ("<answer>092</answer>", 1.0, "correct"),
    ("<answer>92</answer> yes", 0.9, "correct"),
    ("<answer>1</answer><answer>92</answer>!", 0.8, "correct"),
    ("<answer>92</answer><answer>91</answer>", 0.0, "wrong_value"),
    ("<answer>-92</answer>", 0.0, "not_a_number"),
    ("<answer>92.0</answer>", 0.0, "not_a_number"),
    ("<answer>9,2</answer>", 0.0, "not_a_number"),
    ("<answer>\u0669\u0662</answer>", 0.0, "not_a_number"),  # Arabic digits, which int() reads
    ("<answer>9_2</answer>", 0.0, "not_a_number"),
    (f"<answer>{'0' * 39}92</answer>", 0.0, "too_long"),
    ("", 0.0, "no_answer"),
]


@pytest.mark.parametrize("completion, reward, verdict", SCORES)
def test_scores(completion, reward, verdict):
    score = Multiplication().score(PROBLEM, completion)
    assert score.reward == pytest.approx(reward) and (score.correct, score.verdict) == (verdict == "correct", verdict)


def test_thousands_may_have_commas():
    problem = MultiplicationProblem(1111, 1111)
    for text, verdict in (("1,234,321", "correct"), ("1,234321", "not_a_number"), ("1234321", "correct")):
        assert Multiplication().score(problem, f"<answer>{text}</answer>").verdict == verdict


@given(st.lists(st.sampled_from(["<answer>", "</answer>", "92", "9", "2", " ", "\n", "-", "0", ",", "x"])).map("".join))
def test_only_the_product_is_right(text):
    score = Multiplication().score(PROBLEM, text)
    answers = re.findall(r"<answer>((?:(?!</?answer>).)*)</answer>", text, re.DOTALL)
    right = bool(answers) and re.fullmatch(r"\s*0*92\s*", answers[-1]) is not None and len(answers[-1]) <= 40
    assert score.correct == right and (score.reward >= 0.8 if right else score.reward == 0)


def test_what_a_majority_votes_on():
    texts = (
        "<answer>1,092</answer>",
        "<answer>01092</answer>",
        "1092",
        "<answer>x</answer>",
        f"<answer>{10**40}</answer>",
    )
    assert [Multiplication().answer(text) for text in texts] == ["1092", "1092", None, None, None]


@pytest.mark.parametrize("digits, least, most", [(1, 2, 9), (2, 11, 99), (3, 101, 999), ((1, 3), 2, 999)])
def test_factors_have_so_many_digits(digits, least, most):
    task = Multiplication(digits=digits)
    factors = [factor for i in range(200) for factor in task.problem(i).canonical]
    assert least <= min(factors) and max(factors) <= most and all(factor % 10 for factor in factors)
    counts = {len(str(factor)) for factor in factors}
    assert counts == ({digits} if isinstance(digits, int) else set(digits))


def test_what_is_held_out():
    assert len({Multiplication().is_held_out(MultiplicationProblem(*pair)) for pair in ((23, 4), (4, 23))}) == 1
    with pytest.raises(ValueError, match=r"there are only \d+ distinct held-out problems. Received: n=100"):
        Multiplication(digits=1).held_out(100)


@pytest.mark.parametrize("name", TEMPLATES)
def test_prompts(name):
    prompt = Multiplication(template=name).prompt(PROBLEM)
    assert (
        "23" in prompt and "4" in prompt and prompt.endswith(("<think>\n", "<|channel>thought\n")) and "{" not in prompt
    )
    if name == "compact":
        assert prompt == "23*4=?\n<think>\n"
    else:  # what it gives as an example is read as a number
        assert Multiplication().score(PROBLEM, prompt).verdict == "wrong_value"


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"digits": 0}, "digits must be from 1 to 6, or several such counts, e.g. .2, 3.. Received: digits=0"),
        ({"digits": 7}, "Received: digits=7"),
        ({"digits": ()}, r"Received: digits=\(\)"),
        ({"digits": (2, "3")}, "Received: digits="),
        ({"seed": 0.5}, "seed must be an integer. Received: seed=0.5"),
        ({"template": "{first}"}, r"fields \{first\} and \{second\} and no others. Received: template='\{first\}'"),
    ],
)
def test_bad_arguments(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Multiplication(**arguments)


@pytest.mark.parametrize(
    "factors, labels, steps, product",
    [
        ((23, 4), (3, 2), "20*4=80,3*4=12,80+12", 92),
        ((4, 203), (4, 2), "200*4=800,3*4=12,800+12", 812),
        ((3, 7), (2, 1), "7*3", 21),
        ((45, 203), (5, 4), "200*45=9000,3*45=135,9000+135", 9135),
    ],
)
def test_a_worked_solution(factors, labels, steps, product):
    task, problem = Multiplication(), MultiplicationProblem(*factors)
    solution = f"{steps}={product}\n</think>\n<answer>{product}</answer>"
    assert task.worked_solution(problem, random.Random(0)) == solution
    assert task.labels(problem) == dict(zip(("digits", "difficulty"), labels, strict=True))


def test_worked_solutions_are_right_without_bad_habits():
    task = Multiplication(digits=(1, 2, 3, 4))
    for i in range(200):
        problem = task.problem(i)
        assert task.score(problem, task.worked_solution(problem, random.Random(i))).reward == 1.0


def test_bad_habits():
    task, problem = Multiplication(), MultiplicationProblem(123, 45)
    guess = task.worked_solution(problem, random.Random(0), guess_rate=1.0)
    assert re.fullmatch(r"</think>\n<answer>[1-9]\d{3}</answer>", guess)
    slipping = [task.worked_solution(problem, random.Random(i), slip_rate=0.2) for i in range(200)]
    right = sum(task.score(problem, text).correct for text in slipping) / 200
    assert 0.2 < right < 0.45  # 0.8 to the fifth, if no two slips cancel
