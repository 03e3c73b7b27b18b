"""Named attacks on Countdown's scorer, each with the verdict that it deserves; the oracle says the same."""

from keras_aha.tasks import Countdown, CountdownProblem, Score
from keras_aha.tasks.answer_tag import MAX_BLANK_TAIL
from keras_aha.tasks.expression import MAX_DEPTH, MAX_DIGITS, MAX_LENGTH, MAX_OPERATIONS

import pytest
from verdict_oracle import judge

TASK = Countdown(num_numbers=3, max_number=20)
PROBLEM = (1, 2, 3), 9
RIGHT = "<answer>(1+2)*3</answer>"

FORMS = [  # of the problem above; the first are the traps of TinyZero's scorer
    (RIGHT, "correct", 1.0),
    (RIGHT + "\n" * MAX_BLANK_TAIL, "correct", 1.0),
    (RIGHT + "\n" * (MAX_BLANK_TAIL + 1), "correct", 0.9),
    (RIGHT * 100, "correct", 0.9),
    (RIGHT + " \u200b", "correct", 0.9),
    (RIGHT + " <answer>", "correct", 0.8),
    (RIGHT + "</answer>", "correct", 0.8),
    (RIGHT + " <answer>1</answer>", "wrong_numbers", 0.0),
    ("<answer>1</answer>" + RIGHT, "correct", 0.9),
    ("<answer>1" + RIGHT, "correct", 0.9),
    ("<answer>1</answer>" + RIGHT + " \u00a0 done.", "correct", 0.8),
    ("no tags of thinking\n</think>\n" + RIGHT, "correct", 1.0),
    ("<answer>1+2+3</answer> done.", "wrong_value", 0.0),
    ("<answer>9</answer><answer>1+2+3</answer> done.", "wrong_value", 0.0),
    ("</answer><answer>1+2+3=9</answer>", "false_equation", 0.0),
    ("", "no_answer", 0.0),
    ("(1+2)*3", "no_answer", 0.0),
    ("<answer>(1+2)*3", "no_answer", 0.0),
    ("(1+2)*3</answer>", "no_answer", 0.0),
    ("</answer>(1+2)*3<answer>", "no_answer", 0.0),
    ("<ANSWER>(1+2)*3</ANSWER>", "no_answer", 0.0),
    ("<answer >(1+2)*3</answer>", "no_answer", 0.0),
    ("<answer>" * 300_000, "no_answer", 0.0),  # a search that starts anew at every tag would take hours
    ("<answer></answer>" * 2_000, "not_an_expression", 0.0),
]
ANSWERS = [  # of the same problem
    ("\n(1+2)\n*3\n", "correct"),
    ("(1+2)*3 = 9", "correct"),
    ("(1+2)\u00d73", "correct"),
    ("-3*-(2+1)", "correct"),
    ("--3*(2--1)", "correct"),
    ("3\u00f7(1\u22122)", "wrong_value"),
    ("1+2+3 = 6", "wrong_value"),
    ("1+2+3 = 9", "false_equation"),
    ("(1+2)*3=\u22129", "false_equation"),
    ("9", "wrong_numbers"),
    ("3*3", "wrong_numbers"),
    ("(1+2)*3*1", "wrong_numbers"),
    ("12-3", "wrong_numbers"),
    ("", "not_an_expression"),
    ("(1+2)*3 = 9 = 9", "not_an_expression"),
    ("9 = (1+2)*3", "not_an_expression"),
    ("2**3+1", "not_an_expression"),
    ("9**9**9", "not_an_expression"),
    ("3//1*2", "not_an_expression"),
    ("1.2*3", "not_an_expression"),
    ("1 2-3", "not_an_expression"),
    ("[1+2]*3", "not_an_expression"),
    ("(1+2)*\uff13", "not_an_expression"),
    ("(1+2)*+3", "not_an_expression"),
    ("(1+2)*3%10", "not_an_expression"),
    ("<think>(1+2)*3</think>", "not_an_expression"),
    (")" * 9 + "(" * MAX_DEPTH, "not_an_expression"),
    ("\u00e9" * MAX_LENGTH, "not_an_expression"),
    # Bounds come before reading.
    (")" * 9 + "(" * (MAX_DEPTH + 1), "too_long"),  # what was never open is not closed
    ("(" * (MAX_DEPTH + 1) + "=x", "too_long"),
    ("x" + "9" * (MAX_DIGITS + 1), "too_long"),
    ("-" * MAX_OPERATIONS + "1=-1", "too_long"),  # on both sides together
    ("\u2212" * (MAX_OPERATIONS + 1), "too_long"),
    ("\u00e9" * (MAX_LENGTH + 1), "too_long"),
    ("(1+2)*3" + " " * MAX_LENGTH, "too_long"),
]
OTHERS = [
    ((1, 5, 6), 9, "1.5*6", "not_an_expression"),
    ((3, 3, 8, 8), 24, "8/(3-8/3)", "correct"),
    ((1, 3, 3), 1, "1/3*3", "correct"),
    ((99999, 100000, 7), 7, "7*99999/100000", "wrong_value"),  # 1e-5 off, which a scorer in floats accepts
    ((100000, 3), 33333, "100000/3", "wrong_value"),
    ((100000, 3), 33333, "100000/3=33333", "false_equation"),
    ((2, 2, 1), 5, "1/(2-2)=5", "division_by_zero"),
    ((0, 5), 0, "0/5", "correct"),
    ((0, 5), 0, "5/0", "division_by_zero"),
    ((1, 2, 2), 2, "1*2", "wrong_numbers"),
    ((4,), -4, "-4", "correct"),
    # What fuzzing left: odd ways to a verdict, and two halves that an oracle once read as one.
    ((0, 0), 0, "-8*3)/8*0---(---(-(8*3)/8*0/0))", "not_an_expression"),
    ((8, 3), 24, "8)*(3", "not_an_expression"),
    ((2, 2, 1), 5, "1/1/1/1/1/1/0/1/1/1\x1e/1*2", "not_an_expression"),
    ((4,), -4, "-3=-\t3", "wrong_numbers"),
    ((0, 0), 0, "------( 0/\u22120\n)", "division_by_zero"),
    ((98, 58, 3), 43, f"3+98-58={'-' * 121}43", "false_equation"),
]
CASES = [(PROBLEM, completion, verdict, reward) for completion, verdict, reward in FORMS]
CASES += [(PROBLEM, f"<answer>{answer}</answer>", verdict, None) for answer, verdict in ANSWERS]
CASES += [((*puzzle,), f"<answer>{answer}</answer>", verdict, None) for *puzzle, answer, verdict in OTHERS]
REWARDS = {"correct": 1.0, "wrong_value": 0.1, "false_equation": 0.1, "division_by_zero": 0.1}


@pytest.mark.parametrize(("problem", "completion", "verdict", "reward"), CASES, ids=lambda value: str(value)[:40])
def test_score(problem, completion, verdict, reward):
    score = TASK.score(CountdownProblem(*problem), completion)
    reward = REWARDS.get(verdict, 0.0) if reward is None else reward
    assert score == Score(reward, verdict == "correct", verdict)
    assert score.well_formed == (verdict not in ("no_answer", "too_long", "not_an_expression"))
    assert judge(*problem, completion) == (verdict, reward)
