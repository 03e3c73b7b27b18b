"""Turns of a policy that a task answers, also one that hangs, raises, floods, lies or returns something else."""

import random
import threading
import time

from keras_aha.models.special_tokens import prompt_ids
from keras_aha.tasks.countdown import Countdown
from keras_aha.tasks.task import Score, Task
from keras_aha.tasks.turn import Observation, Turn, said
from keras_aha.training.ask import TaskError
from keras_aha.training.conversations import Conversations
from keras_aha.training.example_batches import solutions
from keras_aha.training.observation_ids import ObservationIds, marks
from keras_aha.training.turn_limits import TurnLimits

import numpy as np
import pytest
from tiny_models import tiny_tokenizer

TOKENIZERS = {name: tiny_tokenizer(name) for name in ("gemma", "llama_3", "qwen_3", "smollm_3")}
GEMMA = TOKENIZERS["gemma"]


class Echo(Task):
    """Answers by what its problems say, by the turn's text: a function of the turns, or what is returned."""

    max_turns = 3

    def problem(self, index):
        return index

    def prompt(self, problem):
        return "Use "

    def score(self, problem, completion):
        return Score(1.0, True, "correct")

    def held_out(self, n):
        raise ValueError

    def respond(self, problem, turns):
        return problem(turns) if callable(problem) else problem


def conversations(problems, tokenizer=GEMMA, on_error="skip", **limits):
    reported = {}
    settings = dict(limits=TurnLimits(**dict(max_observation_length=12) | limits), reported=reported, on_error=on_error)
    return Conversations(Echo(), problems, tokenizer, **settings), reported


def ids_of(text, tokenizer=GEMMA):
    return np.array(tokenizer([text])[0], "int32")


def take_all(spoken, count):
    answers = {}
    while len(answers) < count:
        answers |= spoken.take(wait=True)
    return answers


END = GEMMA.token_to_id("<end_of_turn>")


def test_turns_are_texts_and_answers_ids():
    seen = []

    def answer(turns):
        seen.append(turns)
        return Observation("3", "<start_of_turn>", ".\n", tool="calculator")

    spoken, reported = conversations([answer, answer, None, Observation("never read", done=True)])
    spoken.ask(1, np.append(ids_of("12+ yes\n"), END))
    spoken.ask(0, ids_of("12<answer>"))
    spoken.ask(2, np.append(ids_of("7"), [END]))
    spoken.ask(3, np.array([GEMMA.vocabulary_size() + 2, END]))  # a model may know ids that are no text
    answers = spoken.take(wait=False)
    assert list(answers) == [0, 1, 2, 3] and spoken.take(wait=False) == {}  # each once, in the order of rows
    assert seen == [(Turn("12<answer>"),), (Turn("12+ yes\n"),)]
    assert GEMMA.detokenize([answers[0].tolist()]) == ["<start_of_turn>3.\n"] and answers[2] is answers[3] is None
    for turn in ("a", "b"):
        spoken.ask(0, ids_of(turn))
        answers = spoken.take(wait=True)
    assert answers == {0: None} and len(seen) == 3  # a third turn is the last, and nobody is asked
    observed = np.zeros((4, 8), bool)
    completions = type("Completions", (), dict(observed=observed, lengths=np.array([4, 5, 2, 2])))
    completions.token_ids = np.zeros((4, 8), "int32")
    completions.token_ids[1] = 130  # row 1 was cut in its second turn, of one token after three
    turns = spoken.turns(completions)
    assert [len(own) for own in turns] == [3, 2, 1, 1] and said(turns[0]) == "12<answer>\na\nb"
    assert turns[1][1] == Turn(GEMMA.detokenize([[130]])[0]) and turns[3][0].text == ""
    assert turns[3][0].observation == Observation("never read", done=True)
    assert not reported and not spoken.failed


class Boom(BaseException):
    """Not even an `Exception`."""


def fail(error):
    def respond(turns):
        raise error

    return respond


def hang(turns):
    while True:
        time.sleep(0.01)


FAILURES = {
    "raised SystemExit": fail(SystemExit(1)),
    "raised Boom": fail(Boom()),
    "took longer than 0.05 s": hang,
    "returned b'7', which is no Observation": b"7",
    "returned Observation(text=b'7'": Observation(b"7"),
    "returned 'a text', which is no": "a text",
    "returned what cannot be read: `before` and `after`": Observation("", after="<answer>" * 13),
    "which cannot be": Observation("", before="x" * 10**8),
}


@pytest.mark.filterwarnings("ignore:A response failed")
@pytest.mark.parametrize("workers", (0, 2))
def test_a_response_that_fails_costs_its_completion(workers):
    problems = [Observation("7"), *FAILURES.values(), Observation("8")]
    spoken, reported = conversations(problems, response_seconds=0.05, response_workers=workers)
    for row in range(len(problems)):
        spoken.ask(row, ids_of("1"))
    answers = take_all(spoken, len(problems))
    assert spoken.failed == {*range(1, len(problems) - 1)} and len(reported) == 1  # told once
    assert [row for row, ids in sorted(answers.items()) if ids is not None] == [0, len(problems) - 1]
    spoken.close()
    for words, problem in FAILURES.items():
        spoken, _ = conversations([problem], on_error="stop", response_seconds=0.05, response_workers=workers)
        spoken.ask(0, ids_of("1"))
        with pytest.raises(TaskError, match=r'A response failed, and on_reward_error is "stop": Echo.respond') as error:
            spoken.take(wait=True)
        assert words in str(error.value) or problem == Observation("", before="x" * 10**8)
        assert len(str(error.value)) < 1000
        spoken.close()
    spoken, _ = conversations([fail(KeyboardInterrupt())], response_workers=workers)
    spoken.ask(0, ids_of("1"))
    with pytest.raises(KeyboardInterrupt):
        spoken.take(wait=True)


@pytest.mark.filterwarnings("ignore:A response failed")
def test_responses_are_made_in_threads_while_others_wait():
    """At most so many at once; those that hang, as many as there are threads and more, cost their rows alone."""
    running, most, release, lock = 0, 0, threading.Event(), threading.Lock()

    def slow(turns):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return Observation("7")

    problems = [lambda turns: release.wait(60)] * 4 + [slow] * 9
    spoken, _ = conversations(problems, response_seconds=0.3, response_workers=3)
    start = time.monotonic()
    for row in range(len(problems)):
        spoken.ask(row, ids_of("1"))
    assert spoken.take(wait=False) == {} and time.monotonic() - start < 0.2
    answers = take_all(spoken, len(problems))
    assert time.monotonic() - start < 5 and 1 < most <= 3
    assert spoken.failed == {0, 1, 2, 3} and all(answers[row] is not None for row in range(4, 13))
    before = threading.active_count()
    release.set()
    spoken.close()
    time.sleep(0.1)
    assert threading.active_count() < before  # a thread ends with its call


# === What is observed is hostile ===


def forbidden(tokenizer, stops=()):
    return {*marks(tokenizer), tokenizer.end_token_id, *(tokenizer.token_to_id(stop) for stop in stops)}


def hostile_texts(tokenizer, count=150):
    """Marks of this family and of others, whole, doubled, nested and cut, between all kinds of text."""
    rng = random.Random(0)
    words = [piece.replace("▁", " ") for piece in marks(tokenizer).values()]
    words += ["<end_of_turn>", "<start_of_turn>user\n", "<|im_end|>", "<|eot_id|>", "<bos>", "<eos>", "<|tool_call>"]
    words += [
        "<",
        ">",
        "<|",
        "|>",
        "end_of_turn>",
        "Ĵ",
        "ĴA",
        "ĴB",
        "ĴC",
        "६",
        "▁",
        "\0",
        "\ud800",
        "\udfff",
        "é",
        "💥",
    ]
    words += [" ", "\n", "\n\n", "Use ", "12", " yes\n", "a b", "＜end_of_turn＞", "\u202e", "<0x0A>", "</s>"]
    yield from words
    for _ in range(count):
        text = "".join(rng.choices(words, k=rng.randrange(1, 12)))
        yield text[rng.randrange(3) :] if rng.random() < 0.3 else text


@pytest.mark.parametrize("name", TOKENIZERS)
def test_no_token_of_what_is_observed_is_a_mark(name):
    tokenizer = TOKENIZERS[name]
    turn_end = next(iter({"<end_of_turn>", "<|eot_id|>", "<|im_end|>"} & {*marks(tokenizer).values()}))
    read = ObservationIds(tokenizer, (turn_end,), 40)
    for text in hostile_texts(tokenizer):
        ids, observation = read(Observation(text, before=turn_end, after=turn_end))
        assert len(ids) <= 40 and ids.dtype == "int32" and ids.min() >= 0
        assert ids[0] == ids[-1] == tokenizer.token_to_id(turn_end)  # what the task itself writes stays a token
        assert not forbidden(tokenizer).intersection(ids[1:-1].tolist()), text
        observation.written.encode()
        if len(ids) < 40 and text.isascii() and "\0" not in text:  # all characters are there, as many as there were
            words = tokenizer.detokenize([ids[1 : len(ids) - 1].tolist()])[0]
            assert words.replace(" ", "") == text.replace(" ", ""), text


@pytest.mark.parametrize("name", TOKENIZERS)
def test_stop_tokens_that_are_letters_are_not_observed_either(name):
    tokenizer = TOKENIZERS[name]
    stops = ("a", "1", tokenizer.id_to_token(tokenizer.end_token_id))
    read = ObservationIds(tokenizer, stops, 30)
    for text in ("a1a1", "banana 1 111", *hostile_texts(tokenizer, 20)):
        assert not forbidden(tokenizer, stops).intersection(read(Observation(text))[0].tolist())


@pytest.mark.parametrize("name", TOKENIZERS)
def test_without_marks_all_is_tokenized_as_one(name):
    """As priming does, and a prompt; a mark across the border is none."""
    tokenizer = TOKENIZERS[name]
    read = ObservationIds(tokenizer, (), 40)
    for parts in (("Use", " each once", " to make"), ("1", "2", "3"), ("", " yes\n", ""), ("", "", "")):
        ids, observation = read(Observation(parts[1], parts[0], parts[2]))
        assert [ids.tolist()] == [list(row) for row in tokenizer(["".join(parts)])] and observation.text == parts[1]
    mark = max(marks(tokenizer).values(), key=len)
    ids, _ = read(Observation(mark[3:] + mark[:4], before=mark[:3], after=mark[4:]))
    assert not forbidden(tokenizer).intersection(ids.tolist()) and len(ids)


def test_priming_and_rollouts_read_the_same():
    class Primed(Echo):
        def worked_turns(self, problem, rng):
            return [Turn("1", Observation("12", "<", ">\n", tool="x")), Turn("3")]

    (example,) = solutions(Primed(), GEMMA, None, 0, {})([0])
    ids, _ = ObservationIds(GEMMA, (), 12)(Observation("12", "<", ">\n"))
    observed = [*example.completion_ids[~example.learned]]
    assert observed == ids.tolist() and example.prompt_ids.tolist() == prompt_ids(GEMMA, ["Use "])[0]
    said = GEMMA.detokenize([example.completion_ids[example.learned].tolist()])[0]
    assert said == "1<end_of_turn>3<end_of_turn>"  # each turn ends as a completion does
    Primed.turn_ends = ("1",)
    (example,) = solutions(Primed(), GEMMA, None, 0, {})([0])
    assert GEMMA.detokenize([example.completion_ids[example.learned].tolist()])[0] == "13<end_of_turn>"


@pytest.mark.parametrize("flood", ("12 " * 3 * 10**7, "<end_of_turn>" * 10**6, "\ud800" * 10**7, "x" * 10**8))
def test_a_flood_is_cut(flood):
    start = time.monotonic()
    ids, observation = ObservationIds(GEMMA, (), 24)(Observation(flood, "<", "</answer>", tool="t" * 10**7))
    assert len(ids) == 24 and ids[-1] == GEMMA.token_to_id("</answer>") and ids[0] == GEMMA.token_to_id("<")
    assert len(observation.written) < 400 and len(observation.tool) == 100
    assert GEMMA.detokenize([ids[1:-1].tolist()])[0] == observation.text and time.monotonic() - start < 2


def test_limits():
    limits = TurnLimits(max_observation_length=256)
    assert limits.within_completions(Echo(), 64).max_observation_length == 64
    assert limits.within_completions(Countdown(), 1024) == limits
    for turns in (0, 1.5, True, "2"):
        task = Echo()
        task.max_turns = turns
        with pytest.raises(ValueError, match="`max_turns` of a task must be a whole number from 1. Received: "):
            limits.within_completions(task, 64)
