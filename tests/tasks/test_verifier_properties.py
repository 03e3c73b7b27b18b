"""What holds of any text whatever, and what a hostile one may cost: no clock, but calls and bytes."""

import sys
import tracemalloc

from keras_aha.evaluation.behaviours import count_behaviours
from keras_aha.tasks import Countdown, CountdownProblem
from keras_aha.tasks.answer_tag import MAX_BLANK_TAIL
from keras_aha.tasks.expression import MAX_LENGTH, ExpressionError, parse_expression

import hostile_completions as hostile
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from verdict_oracle import VERDICTS, find_answer, judge

TASK = Countdown(num_numbers=3, max_number=20)
PROBLEM = CountdownProblem((1, 2, 3), 9)
RIGHT = "<answer>(1+2)*3</answer>"
WRONG = "<answer>1+2+3</answer>"

PIECES = [*hostile.TAGS, *hostile.BLANKS, *hostile.ODDITIES, *"1239", "(1+2)*3", "1+2+3", "1/(2-2)", RIGHT, WRONG]
ANY_TEXT = (
    st.text(st.characters())  # lone surrogates too
    | st.lists(st.sampled_from(PIECES), max_size=30).map("".join)
    | st.lists(st.sampled_from(PIECES), max_size=12).map(lambda pieces: f"<answer>{''.join(pieces)}</answer>")
    | st.tuples(st.sampled_from(PIECES), st.integers(0, 20_000)).map(lambda pair: pair[0] * pair[1])
    | st.builds(hostile.hostile_completion, st.randoms(use_true_random=False), st.just(PROBLEM))
)
WITHOUT_TAGS = ANY_TEXT.filter(lambda text: "<answer>" not in text and "</answer>" not in text)


@settings(max_examples=300, deadline=None)
@given(ANY_TEXT)
@example("\ud800" * 1_000_000)
@example("<answer>" * 60_000 + "</answer>" * 60_000)
@example("<answer>" + "(" * 1_000_000 + "</answer>")
def test_any_text_has_a_verdict(text):
    score = TASK.score(PROBLEM, text)
    verdict, reward = judge(PROBLEM.numbers, PROBLEM.target, text)
    assert score.verdict in VERDICTS and 0 <= score.reward <= 1
    assert (score.verdict, score.reward, score.correct) == (verdict, reward, verdict == "correct")
    if score.reward > 0:
        expression = parse_expression(find_answer(text)[0])  # does not raise
        assert sorted(expression.numbers) == [1, 2, 3]
    if not score.well_formed:
        assert score.reward == 0
    behaviours = count_behaviours(text)
    assert 0 <= behaviours.verifications <= behaviours.attempts
    assert 0 <= behaviours.backtracks <= max(behaviours.attempts - 1, 0)
    assert behaviours.self_corrections >= 0 and behaviours.slips >= 0


@settings(max_examples=200, deadline=None)
@given(ANY_TEXT)
@example("<answer>( 1+2 )×3 = 9</answer>")
@example("<answer>1 2+3</answer>")
def test_an_answer_says_all_that_the_verdict_is_about(text):
    answer, score = TASK.answer(text), TASK.score(PROBLEM, text)
    assert (answer is not None) == score.well_formed
    if answer is not None and len(answer) <= MAX_LENGTH:
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


LARGE_ANSWERS = [  # read to their end, numbers growing all the way
    "*".join(["9" * 20] * 47),
    "/".join(["98765432109876543210"] * 47),
    "+".join(f"1/{10**19 + 2 * n + 1}" for n in range(43)),
    "+".join(f"{n}/{n + 1}" for n in range(1, 90)),
    "1/(9-" * 45 + "9" * 20 + ")" * 45,
    "-" * 200 + "1",
    "(" * 50 + "1" + ")" * 50,
]


@pytest.mark.parametrize("answer", LARGE_ANSWERS, ids=lambda answer: answer[:12])
def test_numbers_never_have_more_digits_than_the_text_has_characters(answer):
    value = parse_expression(answer).value
    assert len(answer) <= MAX_LENGTH
    assert max(abs(value.numerator), value.denominator) < 10 ** len(answer)


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


UNREADABLE = ["1=" * 500, "(" * 1000, "-" * 1000, "\u0663" * 1000, "1)" * 500, "1" * 1000, "1 " * 500]


@pytest.mark.parametrize("answer", [*LARGE_ANSWERS, *UNREADABLE], ids=lambda answer: answer[:12])
def test_steps_of_the_reader(answer):
    # About two functions a token for the reader, and a few for a Fraction's arithmetic.
    assert calls(parse_expression, answer) < 40 * len(answer) + 40


HOSTILE_TEXTS = [
    *(
        "a",
        "1",
        "<",
        " ",
        "\n",
        "\x1c",
        "=",
        "-",
        "(",
        "\ud800",
        "<answer>",
        "</answer>",
        "<answer></answer>",
        "</answe",
    ),
    *("1+1=2", "1+1=2\n", "1+1=2 no\n", "1-(", "= - ", ")-((-", "isn't ", "all right ", "1+1=2 too ", " 1 + ", "=1/1"),
]


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
@pytest.mark.parametrize(
    "form", ["{}", "<answer>{}", "{}</answer>", "<answer>{}</answer>", "<answer>(1+2)*3</answer>{}"]
)
def test_a_megabyte_costs_the_scorer_no_step_more(text, form):
    def score(completion):
        TASK.score(PROBLEM, completion)

    long = form.format(text * (1_000_000 // len(text)))
    assert calls(score, long) < 200
    assert peak_bytes(score, long) < 5 * len(long) + 10_000  # an answer and what follows it are copied


HOSTILE_WORDS = [
    *("1+1=2 wait\n", "that is ", "let me ", "- - ", "-(", "1 x ", "**", "1**", "1,000", "1 is ", "1=1=", "1+1=2,"),
    *("\\frac{", "\\frac{1}{", "\n "),
]


@pytest.mark.parametrize("text", HOSTILE_TEXTS + HOSTILE_WORDS)
def test_the_steps_of_behaviours_grow_with_the_text(text):
    short, long = (text * (length // len(text)) for length in (5_000, 20_000))
    assert calls(count_behaviours, long) < 10 * len(long)
    assert calls(count_behaviours, long) < 4.1 * calls(count_behaviours, short) + 100
    assert peak_bytes(count_behaviours, long) < 300 * len(long) + 10_000


def peak_bytes(function, text):
    tracemalloc.start()
    try:
        function(text)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
