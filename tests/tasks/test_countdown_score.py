"""Countdown's scorer beside an oracle, on named attacks and on hostile completions, and what a text may cost."""

import random
import re
import sys
import tracemalloc
import unicodedata
import warnings
from collections import Counter

from keras_aha.tasks import Countdown, CountdownProblem, Score
from keras_aha.tasks.answer_tag import MAX_BLANK_TAIL
from keras_aha.tasks.expression import MAX_DEPTH, MAX_DIGITS, MAX_LENGTH, MAX_OPERATIONS, parse_expression

import hostile_completions as hostile
import pytest
from hostile_completions import CLOSE, OPEN
from hypothesis import example, given, settings
from verdict_oracle import REWARDS, VERDICTS, attainable, find_answer, judge

TASK = Countdown(num_numbers=(3, 4), max_number=20)
PROBLEM = (1, 2, 3), 9
RIGHT = "<answer>(1+2)*3</answer>"

# === Named attacks ===

FORMS = {  # of the problem above; the first are the traps of TinyZero's scorer
    ("correct", 1.0): [RIGHT, RIGHT + "\n" * MAX_BLANK_TAIL, "no tags of thinking\n</think>\n" + RIGHT],
    ("correct", 0.9): [
        *(RIGHT + "\n" * (MAX_BLANK_TAIL + 1), RIGHT * 100, RIGHT + " \u200b"),
        *("<answer>1</answer>" + RIGHT, "<answer>1" + RIGHT),
    ],
    ("correct", 0.8): [RIGHT + " <answer>", RIGHT + CLOSE, "<answer>1</answer>" + RIGHT + " \u00a0 done."],
    ("wrong_numbers", 0.0): [RIGHT + " <answer>1</answer>"],
    ("wrong_value", 0.0): ["<answer>1+2+3</answer> done.", "<answer>9</answer><answer>1+2+3</answer> done."],
    ("false_equation", 0.0): ["</answer><answer>1+2+3=9</answer>"],
    ("no_answer", 0.0): [
        *("", "(1+2)*3", "<answer>(1+2)*3", "(1+2)*3</answer>", "</answer>(1+2)*3<answer>"),
        *("<ANSWER>(1+2)*3</ANSWER>", "<answer >(1+2)*3</answer>"),
        OPEN * 300_000,  # a search that starts anew at every tag would take hours
    ],
    ("not_an_expression", 0.0): ["<answer></answer>" * 2_000],
}
ANSWERS = {  # of the same problem
    "correct": [
        *("\n(1+2)\n*3\n", "\f(\v1\t+\r2 )*\n3", "((((2+1))))*3", "(1+2)*3 = 9", "(1+2)\u00d73"),
        *("-3*-(2+1)", "--3*(2--1)"),
    ],
    "wrong_value": ["3\u00f7(1\u22122)", "1+2+3 = 6"],
    "false_equation": ["1+2+3 = 9", "(1+2)*3=\u22129"],
    "wrong_numbers": ["9", "3*3", "(1+2)*3*1", "12-3"],
    "not_an_expression": [
        *("", "(1+2)*3 = 9 = 9", "9 = (1+2)*3", "2**3+1", "9**9**9", "3//1*2", "1.2*3", "1 2-3", "[1+2]*3", "(01+2)*3"),
        *("(1+2)*\uff13", "(1+2)*+3", "(1+2)*3%10", "<think>(1+2)*3</think>", ")" * 9 + "(" * MAX_DEPTH),
        "\u00e9" * MAX_LENGTH,
    ],
    "too_long": [  # bounds come before reading
        ")" * 9 + "(" * (MAX_DEPTH + 1),  # what was never open is not closed
        "-" * MAX_OPERATIONS + "1=-1",  # on both sides together
        *("(" * (MAX_DEPTH + 1) + "=x", "x" + "9" * (MAX_DIGITS + 1), "\u2212" * (MAX_OPERATIONS + 1)),
        *("\u00e9" * (MAX_LENGTH + 1), "(1+2)*3" + " " * MAX_LENGTH),
    ],
}
OTHERS = [
    ((1, 5, 6), 9, "1.5*6", "not_an_expression"),
    ((3, 3, 8, 8), 24, "8/(3-8/3)", "correct"),
    ((1, 3, 3), 1, "1/3*3", "correct"),
    ((99999, 100000, 7), 7, "7*99999/100000", "wrong_value"),  # 1e-5 off, which a scorer in floats accepts
    ((100000, 3), 33333, "100000/3=33333", "false_equation"),
    ((2, 2, 1), 5, "1/(2-2)=5", "division_by_zero"),
    ((0, 5), 0, "0/5", "correct"),
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
CASES = [(PROBLEM, text, *judged) for judged, texts in FORMS.items() for text in texts]
CASES += [
    (puzzle, f"<answer>{answer}</answer>", verdict, REWARDS.get(verdict, [0.0])[0])
    for puzzle, answer, verdict in [
        *((PROBLEM, answer, verdict) for verdict, answers in ANSWERS.items() for answer in answers),
        *((puzzle, answer, verdict) for *puzzle, answer, verdict in OTHERS),
    ]
]


@pytest.mark.parametrize(("problem", "completion", "verdict", "reward"), CASES, ids=lambda value: str(value)[:40])
def test_score(problem, completion, verdict, reward):
    score = TASK.score(CountdownProblem(*problem), completion)
    assert score == Score(reward, verdict == "correct", verdict)
    assert score.well_formed == (verdict not in ("no_answer", "too_long", "not_an_expression"))
    assert judge(*problem, completion) == (verdict, reward)


# === Hostile completions ===


def free_tails(problem, completion):
    return TASK.score(problem, completion[: completion.rfind(CLOSE) + len(CLOSE)] or completion).reward


def a_set_of_numbers(problem, completion):
    score = TASK.score(problem, completion)
    if score.verdict != "wrong_numbers":
        return score.reward
    expression = parse_expression(find_answer(completion)[0])
    return float(set(expression.numbers) == set(problem.numbers) and expression.value == problem.target)


def python_itself(problem, completion):
    """Numbers by a regular expression, the value by `eval`, within a tolerance."""
    answer = find_answer(completion)[0] or ""
    found = [int(number) for number in re.findall(r"\d+", answer)]
    if not re.fullmatch(r"[-+*/().\d\s]+", answer) or sorted(found) != sorted(problem.numbers):
        return 0.0
    if len(answer) > 60 or answer.count("**") > 1:
        return 0.0  # because this test wants to end
    try:
        with warnings.catch_warnings(action="ignore"):
            value = eval(answer.strip(), {"__builtins__": None})
        return 1.0 if abs(value - problem.target) < 1e-5 else 0.1
    except Exception:  # whatever `eval` may raise
        return 0.0


HOLED = {  # verifiers with one hole each → what they pay too much, and the true verdict
    lambda problem, text: TASK.score(problem, text.partition(CLOSE)[0] + CLOSE).reward: (1.0, "not_an_expression"),
    lambda problem, text: TASK.score(problem, unicodedata.normalize("NFKC", text)).reward: (1.0, "not_an_expression"),
    lambda _, text: 0.1 * (OPEN in text and CLOSE in text): (0.1, "not_an_expression"),
    free_tails: (0.1, "wrong_value"),
    a_set_of_numbers: (1.0, "wrong_numbers"),
    python_itself: (1.0, "not_an_expression"),
}
PUZZLES = [TASK.problem(index) for index in range(12)] + [
    CountdownProblem(*puzzle)
    for puzzle in [
        *(((1, 2, 3), 9), ((3, 3, 8, 8), 24), ((4,), -4), ((100, 3), 97), ((7, 7, 7), 100), ((0, 0), 5)),
        *(((2, 2, 1), 5), ((0, 5), 0), ((1, 1, 1, 1), 0), ((0, 1, 1), 2)),  # a division by zero is near
    ]
]


def test_ten_thousand_completions():
    """That the scorer is the oracle on them is worth something because they find the hole in each of `HOLED`."""
    rng = random.Random(0)
    seen, found = Counter(), set()
    for _ in range(10_000):
        problem = rng.choice(PUZZLES)
        completion = hostile.hostile_completion(rng, problem)
        score = TASK.score(problem, completion)
        expected = judge(problem.numbers, problem.target, completion)
        assert (score.verdict, score.reward) == expected, (str(problem), completion)
        assert score.correct == (score.verdict == "correct")
        if score.correct:  # by brute force over all ways, which knows nothing of texts
            assert problem.target in attainable(tuple(sorted(problem.numbers)))
        seen[expected] += 1
        for holed in HOLED.keys() - found:
            earned = holed(problem, completion)
            if earned > score.reward and (earned, score.verdict) == HOLED[holed]:
                found.add(holed)
    assert found == HOLED.keys()
    verdicts = Counter(verdict for verdict, reward in seen.elements())
    assert verdicts.keys() == set(VERDICTS) and min(verdicts.values()) >= 50, verdicts
    rewards = {(verdict, reward) for verdict in VERDICTS for reward in REWARDS.get(verdict, [0.0])}
    assert seen.keys() == rewards and min(seen.values()) >= 10, seen


@settings(max_examples=300, deadline=None)
@given(hostile.any_texts(CountdownProblem(*PROBLEM)))
@example("\ud800" * 1_000_000)
@example(OPEN * 60_000 + CLOSE * 60_000)
@example(OPEN + "(" * 1_000_000 + CLOSE)
@example("<answer>( 1+2 )×3 = 9</answer>")
def test_any_text_has_a_verdict_and_perhaps_an_answer(text):
    problem = CountdownProblem(*PROBLEM)
    score, answer = TASK.score(problem, text), TASK.answer(text)
    assert (score.verdict, score.reward) == judge(*PROBLEM, text)
    assert (answer is not None) == score.well_formed
    if answer is not None and len(answer) <= MAX_LENGTH:  # it says all that the verdict is about
        assert TASK.score(problem, f"<answer>{answer}</answer>").verdict == score.verdict
        assert TASK.answer(f"<answer>{answer}</answer>") == answer


# === What a text may cost: no clock, but calls and bytes ===

LARGE_ANSWERS = [  # read to their end, numbers growing all the way
    *("*".join(["9" * 20] * 47), "/".join(["98765432109876543210"] * 47)),
    *("+".join(f"1/{10**19 + 2 * n + 1}" for n in range(43)), "1/(9-" * 45 + "9" * 20 + ")" * 45),
    *("-" * 200 + "1", "(" * 50 + "1" + ")" * 50),
]
UNREADABLE = ["1=" * 500, "(" * 1000, "-" * 1000, "\u0663" * 1000, "1)" * 500, "1" * 1000, "1 " * 500]


def test_the_reader_takes_few_steps_and_no_number_has_more_digits_than_the_text_has_characters():
    """About two functions a token for the reader, and a few for a Fraction's arithmetic."""
    for answer in LARGE_ANSWERS + UNREADABLE:
        assert calls(parse_expression, answer) < 40 * len(answer) + 40, answer[:20]
    for answer in LARGE_ANSWERS:
        value = parse_expression(answer).value
        assert max(abs(value.numerator), value.denominator) < 10 ** len(answer)


@pytest.mark.parametrize("form", ["{}", "<answer>{}", "{}</answer>", "<answer>{}</answer>", RIGHT + "{}"])
def test_a_megabyte_costs_the_scorer_no_step_more(form):
    def score(completion):
        TASK.score(CountdownProblem(*PROBLEM), completion)

    for piece in {*hostile.TAGS, *hostile.REPEATED, "a", "\n", "\x1c", "=", "\ud800", "</answe", "1+1=2 no\n"}:
        long = form.format(piece * (1_000_000 // len(piece)))
        assert calls(score, long) < 200, piece
        tracemalloc.start()
        score(long)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak_bytes < 5 * len(long) + 10_000, piece  # an answer and what follows it are copied


def calls(function, text):
    """Returns how many functions are called, those written in C too, in `function(text)`."""
    count = 0

    def note(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        function(text)
    except ValueError:
        pass
    finally:
        sys.setprofile(None)
    return count
