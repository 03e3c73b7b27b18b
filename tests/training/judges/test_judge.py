"""Numbers of judges that look them up in tables, worked out by hand or by brute force."""

import itertools
import math
import random

from keras_aha.tasks.mixture import Mixture
from keras_aha.tasks.multiplication import Multiplication
from keras_aha.tasks.signs import Signs
from keras_aha.training.ask import TaskError
from keras_aha.training.judges.judge import Judge, check_answers, without_marks

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

TASK = Multiplication()
ONE, TWO = TASK.problem(0), TASK.problem(1)


class TableJudge(Judge):
    """Gives what `number` returns, and remembers what it was asked."""

    def __init__(self, number=len, rubric="{completion}", task=TASK, **settings):
        super().__init__(task, rubric, **settings)
        self.number = number
        self.asked = []

    def judge(self, texts):
        self.asked.append(texts)
        return [self.number(text) for text in texts]


def failing_on(word):
    return lambda text: ConnectionError(text) if word in text else float(len(text))


# === The rubric ===


def test_a_rubric_is_filled_once():
    judge = TableJudge(rubric="{problem}|{prompt}|{completion}|{reference}|{{}}")
    completion = "{reference} {completion} {{problem}} {0} {"
    judge([ONE], [completion])
    assert judge.asked == [[f"{ONE}|{TASK.prompt(ONE)}|{completion}|{ONE.product}|{{}}"]]


# Gemma's, but for HTML's, and those of the other families in whose chat forms we write
MARKS = """<pad> <eos> <bos> <unk> <mask> <2mass> [@BOS@] [multimodal] <unused0> <unused6241> <start_of_turn>
<end_of_turn> <start_of_image> <end_of_image> <image_soft_token> <start_function_call> <end_function_response> <|turn>
<turn|> <|channel> <|think|> <|"|> <|im_start|> <|im_end|> <|endoftext|> <|eot_id|> <|reserved_special_token_7|>"""
MARKS = MARKS.split()
PIECES = [*MARKS, *(mark[:n] for mark in MARKS for n in (1, 2, 6)), *(mark[n:] for mark in MARKS for n in (1, 2, 6))]
TEXTS = st.lists(st.sampled_from([*PIECES, " ", "\n", "a", "<answer>3</answer>"]), max_size=8).map("".join)


@given(TEXTS, TEXTS)
def test_a_completion_contributes_no_mark(completion, other):
    judge = TableJudge(rubric="<start_of_turn>user\n{completion}{other} better?<end_of_turn>\n")
    judge([ONE] * 2, [completion, other])
    for text in itertools.chain(*judge.asked):
        inner = text.removeprefix("<start_of_turn>user\n").removesuffix("<end_of_turn>\n")
        assert not any(mark in inner for mark in MARKS)
        both_ways = f"{completion}{other}better?", f"{other}{completion}better?"
        assert inner.replace(" ", "") in [words.replace(" ", "") for words in both_ways]


def test_what_is_no_mark_stays():
    for text in ("<think>\n3 < 4 and [1, 2]\n</think>\n<answer>3*4</answer>", "a <b> [c] d", ""):
        assert without_marks(text) == text


OTHERS = "good? {completion {} {completion}{answer} {completion!r} {completion:{other}} {completion.x}".split()


@pytest.mark.parametrize("rubric", OTHERS)
def test_a_rubric_with_other_fields_is_an_error(rubric):
    with pytest.raises(
        ValueError, match=r"`rubric` must be a format string with the field \{completion\}.* Received: "
    ):
        TableJudge(rubric=rubric)


def test_a_reference_must_be_there():
    sentence = "no reference answer: leave {reference} out of the rubric. Received: problem="
    with pytest.raises(ValueError, match=sentence):
        TableJudge(rubric="{completion} {reference}", task=Signs())
    mixture = Mixture([TASK, Signs()])
    problems = [mixture.problem(0)] * 2 + [mixture.problem(1)]
    judge = TableJudge(rubric="{completion} {reference}", task=mixture)
    *numbers, failure = judge(problems, ["a", "b", "a"])
    assert numbers == [len(f"a {mixture.reference(problems[0])}")] * 2
    assert isinstance(failure, TaskError) and f"{sentence}MixedProblem(task=1" in str(failure)


# === Numbers ===


def test_each_text_is_asked_once():
    judge = TableJudge()
    assert judge([ONE, ONE, TWO], ["a", "abc", "a"]) == [1, 3, 1] and judge([TWO, ONE], ["abc", "ab"]) == [3, 2]
    judge([ONE], ["ab"])
    assert judge.asked == [["a", "abc"], ["ab"]]


@pytest.mark.parametrize("failure", [TimeoutError("late"), math.nan, -math.inf])
def test_a_failure_costs_itself_alone_and_is_asked_again(failure):
    answers = {"a": failure, "b": 0.25}
    judge = TableJudge(lambda text: answers[text])
    bad, good = judge([ONE, ONE], ["a", "b"])
    assert good == 0.25 and isinstance(bad, Exception)
    assert bad is failure or "must be finite. Received:" in str(bad)
    answers["a"] = 0.75
    assert judge([ONE, ONE], ["a", "b"]) == [0.75, 0.25] and judge.asked == [["a", "b"], ["a"]]


def test_ranks_within_the_completions_of_a_prompt():
    judge = TableJudge(failing_on("x"), ranks=True)
    numbers = judge([ONE] * 4 + [TWO] * 4, ["aaa", "b", "c", "dd", "aaaa", "x", "b", "aaaaa"])
    assert isinstance(numbers.pop(5), ConnectionError)
    assert numbers == pytest.approx([1, 1 / 6, 1 / 6, 2 / 3, 1 / 2, 0, 1])
    assert numbers[:4] == pytest.approx((scipy.stats.rankdata([3, 1, 1, 2]) - 1) / 3)
    assert judge([TWO] * 2, ["x", "alone"])[1] == 0.5 and judge([TWO], ["b"]) == [0.5]


# === Comparisons ===


def first_wins(text):
    """A made chance that the first is better, which prefers the first, and long ones."""
    first, other = text.split("|")
    return 1 / (1 + math.exp(len(other) - len(first) - 0.5 - (ord(first[0]) - ord(other[0])) / 20))


def brute_force(group, opponents):
    """By rows: the mean over all that are at most `opponents` places away in the ring."""
    size = len(group)
    numbers = []
    for i in range(size):
        near = {(i + step) % size for step in range(-opponents, opponents + 1)} - {i}
        wins = [(first_wins(f"{group[i]}|{group[j]}") + 1 - first_wins(f"{group[j]}|{group[i]}")) / 2 for j in near]
        numbers.append(sum(wins) / len(wins) if wins else 0.5)
    return numbers


@pytest.mark.parametrize("opponents", [1, 2, 3, 9])
def test_comparisons_are_those_of_a_brute_force(opponents):
    rng = random.Random(opponents)
    groups = [[rng.choice("abcdef") * rng.randint(1, 3) for _ in range(size)] for size in range(1, 9)]
    judge = TableJudge(first_wins, "{completion}|{other}", opponents=opponents)
    problems = [[TASK.problem(i)] * len(group) for i, group in enumerate(groups)]
    numbers = judge(list(itertools.chain(*problems)), list(itertools.chain(*groups)))
    assert numbers == pytest.approx(list(itertools.chain(*(brute_force(group, opponents) for group in groups))))
    (asked,) = judge.asked
    assert len(asked) == len({*asked}) and not any(len({*text.split("|")}) == 1 for text in asked)


def test_a_comparison_that_fails_is_left_out():
    judge = TableJudge(lambda text: ConnectionError(text) if "b" in text else first_wins(text), "{completion}|{other}")
    a, b, c = judge([ONE] * 3, ["a", "b", "cc"])
    assert isinstance(b, ConnectionError) and a + c == pytest.approx(1) and c > 0.5


def test_bad_settings():
    with pytest.raises(ValueError, match="`opponents` must be 1 or more. Received: opponents=0"):
        TableJudge(opponents=0)
    for answers in ({"Yes": 1}, {"Yes": 1, "No": math.nan}, {"Yes": "1", "No": 0}, {1: 1, 0: 0}, ["Yes", "No"]):
        with pytest.raises(ValueError, match="`answers` must be a table of two texts or more.* Received: answers="):
            check_answers(answers)
    check_answers({"1": 1, "2": 2})
    with pytest.raises(ValueError, match=r"must have numbers in \[0, 1\]"):
        check_answers({"1": 1, "2": 2}, compares=True)
