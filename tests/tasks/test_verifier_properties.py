"""What holds of any text whatever, and what a hostile one may cost: no clock, but calls and bytes."""

import sys
import tracemalloc

from keras_aha.tasks import Countdown, CountdownProblem
from keras_aha.tasks.answer_tag import MAX_BLANK_TAIL
from keras_aha.tasks.expression import MAX_LENGTH, ExpressionError, parse_expression

import hostile_completions as hostile
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from verdict_oracle import find_answer, judge

TASK = Countdown(num_numbers=3, max_number=20)
PROBLEM = CountdownProblem((1, 2, 3), 9)
RIGHT = "<answer>(1+2)*3</answer>"
WRONG = "<answer>1+2+3</answer>"
ANY_TEXT = hostile.any_texts(PROBLEM)
WITHOUT_TAGS = ANY_TEXT.filter(lambda text: "<answer>" not in text and "</answer>" not in text)


@settings(max_examples=300, deadline=None)
@given(ANY_TEXT)
@example("\ud800" * 1_000_000)
@example("<answer>" * 60_000 + "</answer>" * 60_000)
@example("<answer>" + "(" * 1_000_000 + "</answer>")
@example("<answer>( 1+2 )×3 = 9</answer>")
@example("<answer>1 2+3</answer>")
def test_any_text_has_a_verdict_and_perhaps_an_answer(text):
    score, answer = TASK.score(PROBLEM, text), TASK.answer(text)
    assert (score.verdict, score.reward) == judge(PROBLEM.numbers, PROBLEM.target, text)
    assert score.correct == (score.verdict == "correct") and 0 <= score.reward <= 1
    assert (answer is not None) == score.well_formed and (score.well_formed or score.reward == 0)
    if score.reward > 0:
        assert sorted(parse_expression(find_answer(text)[0]).numbers) == [1, 2, 3]
    if answer is not None and len(answer) <= MAX_LENGTH:  # it says all that the verdict is about
        assert TASK.score(PROBLEM, f"<answer>{answer}</answer>").verdict == score.verdict
        assert TASK.answer(f"<answer>{answer}</answer>") == answer


@settings(max_examples=100, deadline=None)
@given(WITHOUT_TAGS)
def test_nothing_is_earned_without_an_answer(text):
    for completion in (text, f"<answer>{text}", f"{text}</answer>", f"</answer>{text}<answer>"):
        assert TASK.score(PROBLEM, completion).reward == 0.0


@pytest.mark.parametrize("answer", ["", "0", "1=1", "--1", "-", "(1 + 2) * 3", "1+2+3"])
def test_no_constant_text_is_farmed(answer):
    """Not even the prompt's example, which has the numbers of few puzzles."""
    problems = [TASK.problem(index) for index in range(300)]
    earning = [problem for problem in problems if TASK.score(problem, f"<answer>{answer}</answer>").reward]
    assert {tuple(sorted(problem.numbers)) for problem in earning} <= {(1, 2, 3)} and len(earning) < 3


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([RIGHT, WRONG]), ANY_TEXT.filter(lambda text: text.strip() or len(text) > MAX_BLANK_TAIL))
@example(RIGHT, "\n" * 11)
@example(RIGHT, RIGHT)
@example(WRONG, WRONG)
@example(RIGHT, "</answer>")
@example(RIGHT, "<answer>")
def test_a_tail_costs(answer, tail):
    plain = TASK.score(PROBLEM, answer)
    score = TASK.score(PROBLEM, answer + tail)
    if score.verdict == plain.verdict:  # else the tail holds another answer, which is judged in its stead
        assert score.reward < plain.reward
    assert score.reward < 1.0


@settings(max_examples=100, deadline=None)
@given(ANY_TEXT.filter(lambda text: "<answer>" in text or "</answer>" in text))
def test_a_second_tag_costs(before):
    assert TASK.score(PROBLEM, before + RIGHT).reward == 0.9
    assert TASK.score(PROBLEM, before + WRONG).reward == 0.0


@settings(max_examples=100, deadline=None)
@given(WITHOUT_TAGS, st.permutations([1, 2, 3]), st.text(" \t\r\n\f\v", max_size=9), st.integers(0, 20), st.data())
def test_what_does_not_matter(thinking, numbers, blanks, brackets, data):
    """Thoughts, the order of a problem's numbers, blanks, brackets around all, and how an operator is written."""
    problem = CountdownProblem(tuple(numbers), 9)
    text = data.draw(st.sampled_from(["(1+2)*3", "1+2+3", "3/(2-1)-1", "1/2-3", "1*2*3*3"]))
    plain = TASK.score(PROBLEM, f"<answer>{text}</answer>")
    dressed = "(" * brackets + blanks.join(text.replace("*", "\u00d7").replace("-", "\u2212")) + ")" * brackets
    assert TASK.score(problem, f"{thinking}<answer>{blanks}{dressed}{blanks}</answer>{blanks}") == plain


# === What a text may cost ===

LARGE_ANSWERS = [  # read to their end, numbers growing all the way
    "*".join(["9" * 20] * 47),
    "/".join(["98765432109876543210"] * 47),
    "+".join(f"1/{10**19 + 2 * n + 1}" for n in range(43)),
    "1/(9-" * 45 + "9" * 20 + ")" * 45,
    "-" * 200 + "1",
    "(" * 50 + "1" + ")" * 50,
]
UNREADABLE = ["1=" * 500, "(" * 1000, "-" * 1000, "\u0663" * 1000, "1)" * 500, "1" * 1000, "1 " * 500]


def test_numbers_never_have_more_digits_than_the_text_has_characters():
    for answer in LARGE_ANSWERS:
        value = parse_expression(answer).value
        assert max(abs(value.numerator), value.denominator) < 10 ** len(answer)


def test_the_reader_takes_few_steps():
    """About two functions a token for the reader, and a few for a Fraction's arithmetic."""
    for answer in LARGE_ANSWERS + UNREADABLE:
        assert calls(parse_expression, answer) < 40 * len(answer) + 40, answer[:20]


@pytest.mark.parametrize(
    "form", ["{}", "<answer>{}", "{}</answer>", "<answer>{}</answer>", "<answer>(1+2)*3</answer>{}"]
)
def test_a_megabyte_costs_the_scorer_no_step_more(form):
    def score(completion):
        TASK.score(PROBLEM, completion)

    for piece in {*hostile.TAGS, *hostile.REPEATED, "a", "\n", "\x1c", "=", "\ud800", "</answe", "1+1=2 no\n"}:
        long = form.format(piece * (1_000_000 // len(piece)))
        assert calls(score, long) < 200, piece
        assert peak_bytes(score, long) < 5 * len(long) + 10_000, piece  # an answer and what follows it are copied


def calls(function, text):
    """Returns how many functions are called, those written in C too, in `function(text)`."""
    count = 0

    def note(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        function(text)
    except ExpressionError:
        pass
    finally:
        sys.setprofile(None)
    return count


def peak_bytes(function, text):
    tracemalloc.start()
    try:
        function(text)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
