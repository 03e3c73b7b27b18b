import itertools
import random

from keras_aha.tasks import Countdown, CountdownProblem, Score
from keras_aha.tasks.answer_tag import MAX_BLANK_TAIL
from keras_aha.tasks.expression import MAX_DEPTH, MAX_DIGITS, MAX_LENGTH, MAX_OPERATIONS, parse_expression

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from verdict_oracle import judge

TASK = Countdown(num_numbers=3, max_number=20, template="compact")


# Completions for the numbers 1, 2, 3 and the target 9. The first part are the traps of TinyZero's scorer.
CASES = [
    ("<answer>(1+2)*3</answer>", 1.0, "correct"),
    ("<answer>(1+2)*3</answer>\n", 1.0, "correct"),
    ("<answer>(1+2)*3</answer>" + "\n" * MAX_BLANK_TAIL, 1.0, "correct"),
    ("<answer>(1+2)*3</answer>" + "\n" * (MAX_BLANK_TAIL + 1), 0.9, "correct"),
    ("<answer>(1+2)*3</answer>" + "<answer>(1+2)*3</answer>" * 99, 0.9, "correct"),
    ("<answer>(1+2)*3</answer> \u200b", 0.9, "correct"),
    ("<answer>1+2+3</answer> done.", 0.0, "wrong_value"),
    ("<answer>9</answer><answer>1+2+3</answer>", 0.0, "wrong_value"),
    ("<answer>9</answer><answer>1+2+3</answer> done.", 0.0, "wrong_value"),
    ("</answer><answer>1+2+3=9</answer>", 0.0, "false_equation"),
    ("<answer>\n(1+2)\n*3\n</answer>", 1.0, "correct"),
    ("<answer>(1+2)*3 = 9</answer>", 1.0, "correct"),
    ("<answer></answer>", 0.0, "not_an_expression"),
    ("<answer>2**3+1</answer>", 0.0, "not_an_expression"),
    ("<answer>9**9**9</answer>", 0.0, "not_an_expression"),
    ("<answer>3//1*2</answer>", 0.0, "not_an_expression"),
    ("<answer>1.2*3</answer>", 0.0, "not_an_expression"),
    # The tag.
    ("", 0.0, "no_answer"),
    ("(1+2)*3", 0.0, "no_answer"),
    ("<answer>(1+2)*3", 0.0, "no_answer"),
    ("(1+2)*3</answer>", 0.0, "no_answer"),
    ("</answer>(1+2)*3<answer>", 0.0, "no_answer"),
    ("<ANSWER>(1+2)*3</ANSWER>", 0.0, "no_answer"),
    ("<answer >(1+2)*3</answer>", 0.0, "no_answer"),
    ("no tags of thinking <answer>(1+2)*3</answer>", 1.0, "correct"),
    ("1+2=3,3*3=9 yes\n</think>\n<answer>(1+2)*3</answer>", 1.0, "correct"),
    ("<answer>1</answer> <answer>(1+2)*3</answer>", 0.9, "correct"),
    ("<answer>(1+2)*3</answer> <answer>1</answer>", 0.0, "wrong_numbers"),
    ("<answer>(1+2)*3</answer> <answer>", 0.8, "correct"),
    ("<answer>1<answer>(1+2)*3</answer>", 0.9, "correct"),
    ("<answer>(1+2)*3<answer>1</answer>", 0.0, "wrong_numbers"),
    ("<answer>(1+2)*3</answer></answer>", 0.8, "correct"),
    ("<answer>(1+2)*3</answer> done.", 0.9, "correct"),
    ("<answer>1</answer><answer>(1+2)*3</answer> \u00a0 done.", 0.8, "correct"),
    ("<answer><think>(1+2)*3</think></answer>", 0.0, "not_an_expression"),
    # The expression.
    ("<answer>(1+2)\u00d73</answer>", 1.0, "correct"),
    ("<answer>3\u00f7(1\u22122)</answer>", 0.1, "wrong_value"),
    ("<answer>-3*-(2+1)</answer>", 1.0, "correct"),
    ("<answer>--3*(2--1)</answer>", 1.0, "correct"),
    ("<answer>(1+2)*3=\u22129</answer>", 0.1, "false_equation"),
    ("<answer>(1+2)*3 = 10</answer>", 0.1, "false_equation"),
    ("<answer>(1+2)*3 = 9 = 9</answer>", 0.0, "not_an_expression"),
    ("<answer>1+2+3 = 6</answer>", 0.1, "wrong_value"),
    ("<answer>1+2+3 = 9</answer>", 0.1, "false_equation"),
    ("<answer>9 = (1+2)*3</answer>", 0.0, "not_an_expression"),
    ("<answer>9</answer>", 0.0, "wrong_numbers"),
    ("<answer>3*3</answer>", 0.0, "wrong_numbers"),
    ("<answer>(1+2)*3*1</answer>", 0.0, "wrong_numbers"),
    ("<answer>12-3</answer>", 0.0, "wrong_numbers"),
    ("<answer>1 2-3</answer>", 0.0, "not_an_expression"),
    ("<answer>1/(3-2-1)</answer>", 0.0, "wrong_numbers"),
    ("<answer>[1+2]*3</answer>", 0.0, "not_an_expression"),
    ("<answer>(1+2)*\uff13</answer>", 0.0, "not_an_expression"),
    ("<answer>(1+2)*+3</answer>", 0.0, "not_an_expression"),
    ("<answer>(1+2)*3%10</answer>", 0.0, "not_an_expression"),
    ("<answer>" + "(" * 100 + "1" + ")" * 100 + "</answer>", 0.0, "too_long"),
    ("<answer>(1+2)*3" + " " * MAX_LENGTH + "</answer>", 0.0, "too_long"),
]


@pytest.mark.parametrize(("completion", "reward", "verdict"), CASES)
def test_score(completion, reward, verdict):
    score = TASK.score(CountdownProblem(numbers=(1, 2, 3), target=9), completion)
    assert score == Score(reward, verdict == "correct", verdict)
    assert score.well_formed == (verdict not in ("no_answer", "too_long", "not_an_expression"))
    assert judge((1, 2, 3), 9, completion) == (verdict, reward)


@pytest.mark.parametrize(
    ("numbers", "target", "answer", "verdict"),
    [
        ((1, 5, 6), 9, "1.5*6", "not_an_expression"),
        ((7, 2, 3), 9, "7//2*3", "not_an_expression"),
        ((3, 3, 8, 8), 24, "8/(3-8/3)", "correct"),
        ((3, 7, 9, 13), 35, "7*(3+9/13)", "wrong_value"),
        ((100000, 100000, 1, 3), 33334, "(100000+1)/3+100000-100000", "wrong_numbers"),
        ((100000, 3), 33333, "100000/3", "wrong_value"),
        ((100000, 3), 33333, "100000/3=33333", "false_equation"),
        ((2, 2, 1), 5, "1/(2-2)", "division_by_zero"),
        ((2, 2, 1), 5, "1/(2-2)=5", "division_by_zero"),
        ((0, 5), 0, "0/5", "correct"),
        ((0, 5), 0, "5/0", "division_by_zero"),
        ((1, 2, 2), 4, "1*2*2", "correct"),
        ((1, 2, 2), 2, "1*2", "wrong_numbers"),
        ((4,), -4, "-4", "correct"),
        ((4,), 4, "4", "correct"),
    ],
)
def test_score_of_other_problems(numbers, target, answer, verdict):
    assert TASK.score(CountdownProblem(numbers, target), f"<answer>{answer}</answer>").verdict == verdict


def test_near_misses_are_misses():
    # 1/3 is not 0.333…: a scorer in floats accepts this one, 1e-5 off.
    problem = CountdownProblem((99999, 100000, 7), 7)
    assert TASK.score(problem, "<answer>7*99999/100000</answer>").verdict == "wrong_value"
    assert TASK.score(CountdownProblem((1, 3, 3), 1), "<answer>1/3*3</answer>").correct


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.randoms(use_true_random=False), st.integers(-3, 3))
def test_verdict_of_random_trees(numbers, rng, offset):
    texts = [(str(number), number) for number in numbers]
    while len(texts) > 1:
        (left, a), (right, b) = (texts.pop(rng.randrange(len(texts))) for _ in range(2))
        symbol = rng.choice("+-*")
        sign = rng.choice(["", "-"])
        value = {"+": a + b, "-": a - b, "*": a * b}[symbol]
        texts.append((f"{sign}({left} {symbol} {right})", -value if sign else value))
    ((text, value),) = texts
    shuffled = rng.sample(numbers, len(numbers))
    completion = f"<answer>{text}</answer>"
    expected = "correct" if offset == 0 else "wrong_value"
    assert TASK.score(CountdownProblem(tuple(shuffled), value + offset), completion).verdict == expected
    other = (*shuffled[1:], shuffled[0] + 1)
    assert TASK.score(CountdownProblem(other, value), completion).verdict == "wrong_numbers"


HOSTILE_PIECES = [
    *("<answer>", "</answer>", "<answer>", "</answer>", "<answer", "answer>", "</think>", "<think>", "<", ">", "="),
    *("(", ")", "()", "+", "-", "*", "/", "**", "//", "%", "1", "2", "3", "(1+2)*3", "9**9**9", "1e309", "0.1", "0x7f"),
    *("\u0663", "\uff13", "\u00b2", "\u2167", "\u00bd", "\u00d7", "\u00f7", "\u2212", "\u00a0", "\u200b"),
    *("\u202e", "\ud800", "\x85", "\u2028", "\ufeff", "\U0001f600"),
    *(" ", "\n", "\r", "\t", "\x00", "\x07", "\x0b", "\x1b[2J", "\x1f", "\x7f"),
    *("__import__('os')", "lambda:1", "{}", "[", "]", "{numbers}", "%s", "\\", "'", '"', "#", ";", "nan", "inf", "1_0"),
]  # fmt: skip
VERDICTS = {"correct", "wrong_value", "wrong_numbers", "not_an_expression", "division_by_zero", "no_answer", "too_long",
            "false_equation"}  # fmt: skip


def hostile_text(rng):
    pieces = []
    for _ in range(rng.randint(1, 8)):
        repeats = rng.choice([1, 1, 1, 1, 2, 3, MAX_DEPTH, MAX_OPERATIONS + 1, 10 * MAX_LENGTH])
        piece = rng.choice(HOSTILE_PIECES) if rng.random() < 0.9 else chr(rng.randrange(0x110000))
        pieces.append(piece * repeats)
    text = "".join(pieces)
    return f"<answer>{text}</answer>" if rng.random() < 0.6 else text


def test_hostile_strings():
    rng = random.Random(0)
    problem = CountdownProblem(numbers=(1, 2, 3), target=9)
    seen = set()
    for _ in range(10_000):
        text = hostile_text(rng)
        score = TASK.score(problem, text)
        seen.add(score.verdict)
        assert score.verdict in VERDICTS
        assert score.correct == (score.reward >= 0.8) == (score.verdict == "correct")
        assert score.correct or score.reward <= 0.1
        if score.well_formed:  # what was evaluated was within the bounds
            answer = text[text.rindex("<answer>", 0, text.rindex("</answer>")) + len("<answer>") :]
            answer = answer[: answer.index("</answer>")]
            assert len(answer) <= MAX_LENGTH
            assert answer.count("(") <= MAX_LENGTH
            assert deepest(answer) <= MAX_DEPTH
            # On either side of an equals sign.
            assert max(sum(side.count(symbol) for symbol in "+-*/") for side in answer.split("=")) <= MAX_OPERATIONS
            assert max(map(len, map(str, parse_expression(answer).numbers))) <= MAX_DIGITS
    assert seen >= {"correct", "wrong_numbers", "not_an_expression", "no_answer", "too_long"}


def deepest(text):
    return max(itertools.accumulate((character == "(") - (character == ")") for character in text))


@pytest.mark.parametrize(
    "text",
    ["<answer>" * 300_000, "</answer>" * 300_000, "<answer></answer>" * 200_000, "<answer>" * 200_000 + "</answer>"],
)
def test_many_tags(text):
    # A search that starts anew at every tag would take hours.
    assert TASK.score(CountdownProblem((1, 2, 3), 9), text).reward == 0.0
