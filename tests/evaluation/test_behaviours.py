import random
import sys
import time
from dataclasses import fields
from pathlib import Path

from keras_aha.evaluation.behaviours import MAX_LENGTH, Behaviours, count_behaviours, mean_behaviours
from keras_aha.tasks import Countdown

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from behaviour_table import precision_and_recall, read  # noqa: E402

SOLVED = "9-1=8,8/4=2 no\n9-1=8,8+4=12 yes\n</think>\n<answer>(9-1)+4</answer>"


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("", (0, 0, 0)),
        (SOLVED, (2, 2, 1)),
        ("</think>\n<answer>1+2=3</answer>", (0, 0, 0)),
        ("<answer>1+2=3</answer> no", (0, 0, 0)),
        ("9-1=8,8/4=2 no\n</think>\n<answer>9</answer>", (1, 1, 0)),  # it failed, and nothing followed
        ("9-1=8,8/4=2\n9-1=8,8+4=12\n", (2, 0, 0)),
        ("9-1=8,8/4=2 yes\n9-1=8,8+4=12 no", (2, 2, 0)),
        ("Let me try 3 + 4 = 7, that is not 10\nThen 3 * 4 = 12, too big.\n3 + 7 = 10, correct!", (3, 3, 2)),
        ("3 + 4 = 7\nthat is not 10.\n\n6 + 4 = 10 is right", (2, 2, 1)),
        ("3 + 4 = 7 - no\n2 + 4 = 6. Nope", (2, 2, 1)),
        ("3 + 4 = 7. Hmm.\nThat doesn't work, so (3 + 3) * 4 = 24", (2, 1, 1)),  # said on the next attempt's line
        ("3+4=7\nAll right, let me see 5+5=10", (2, 0, 0)),
        ("8\u00f72=4 no\n8\u00d72=16 no\n8\u22122=6 yes", (3, 3, 2)),
        ("2*-3=-6 no\n(1+2)=3 yes", (2, 2, 1)),
        ("7 / 2 = 3.5 no\n7 / 2 = 7/2 yes", (2, 2, 1)),
        ("x = 3 + 4\nthe target = 10\n= 5\n3 = 3\n-3 = 5\n2010-2020", (0, 0, 0)),
        ("1+2+3+4 no number follows", (0, 0, 0)),
    ],
)
def test_attempts_verifications_and_backtracks(text, counts):
    found = count_behaviours(text)
    assert (found.attempts, found.verifications, found.backtracks) == counts


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Wait. Actually, hold on.", 3),
        ("The waiter can wait; wait for it, wait until noon, in actuality.", 0),
        ("Let me try 1+1=2.", 0),  # nothing was tried before
        ("1+1=2. Let me try 1+2=3. Let\u2019s try again.", 2),
        ("1+1=2, that is not 3. It doesn't work. THIS ISN'T IT.", 3),
        ("1+1=2 no\n1+2=3 yes", 0),
    ],
)
def test_self_corrections(text, count):
    assert count_behaviours(text).self_corrections == count


def test_a_slip_put_right_is_no_further_attempt():
    assert count_behaviours("9-1=7. Wait, 9-1=8, 8+4=12 yes") == Behaviours(1, 1, 0, 1, 1)
    assert count_behaviours("9-1=7 no\n9-1=8 yes") == Behaviours(2, 2, 1, 0, 1)


def test_going_over_what_was_found_is_no_further_attempt():
    assert count_behaviours("9-1=8 yes. Check: 9-1=8 yes") == Behaviours(1, 1, 0, 0, 0)
    assert count_behaviours("9-1=8 no. Check: 9-1=8 no") == Behaviours(2, 2, 1, 0, 0)


def test_worked_solution():
    task = Countdown(num_numbers=3, max_number=20, seed=0)
    text = task.worked_solution(task.problem(0), random.Random(0), max_attempts=6)
    lines = text.partition("</think>")[0].strip().splitlines()
    assert count_behaviours(text) == Behaviours(len(lines), len(lines), len(lines) - 1, 0, 0)


def test_what_lies_beyond_the_limit_is_not_read():
    text = "1+1=2 no\n".rjust(MAX_LENGTH) + "1+1=3 no\n"
    assert count_behaviours(text) == Behaviours(1, 1, 0, 0, 0)


@pytest.mark.parametrize(
    "text",
    [
        "9-1=8" * 200_000,
        "1+1" + "=2" * 500_000,
        "".join(f"{i}.5-1={i}.5 " for i in range(80_000)),  # no two of them the same
        "".join(f"{i // 100 % 100}-{i % 100}={i // 10000}," for i in range(150_000)),
        "is the target wait\n" * 50_000,
    ],
    ids=lambda text: text[:10],
)
def test_no_text_takes_long(text):
    """Less than 50 ms of a quiet machine's processor (LOG.md); one that others keep busy is given twice as much."""
    seconds = []
    for _ in range(5):
        start = time.process_time()
        count_behaviours(text)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.1


# === The labelled table ===

# Precision and recall, at least, over all completions that were counted by hand; a little below what was measured
# (LOG.md), so that a counter which becomes worse is noticed.
FLOORS = {
    "attempts": (0.97, 0.92),
    "verifications": (0.97, 0.86),
    "backtracks": (0.97, 0.86),
    "self_corrections": (0.95, 0.92),
    "slips": (0.99, 0.95),
}


@pytest.fixture(scope="module")
def completions():
    return read()


def test_the_table_has_what_it_promises(completions):
    assert len(completions) >= 60
    assert {completion["style"] for completion in completions} == {"real", "shorthand", "plain", "unseen"}
    assert all([*completion["labels"]] == [field.name for field in fields(Behaviours)] for completion in completions)


def test_precision_and_recall_by_hand():
    pairs = [(3, 4), (2, 2), (1, 0)]  # there, found: 3 and 2 of 6 found are there, 3 and 2 of 6 there are found
    rows = [{"labels": {"attempts": there}, "found": {"attempts": found}} for there, found in pairs]
    scores = precision_and_recall(rows)["attempts"]
    assert scores == {"there": 6, "found": 6, "precision": 5 / 6, "recall": 5 / 6}


@pytest.mark.parametrize("name", FLOORS)
def test_precision_and_recall(completions, name):
    scores = precision_and_recall(completions)[name]
    assert scores["precision"] >= FLOORS[name][0] and scores["recall"] >= FLOORS[name][1]


def test_the_embedded_model_is_read_without_a_miss(completions):
    for completion in completions:
        if completion["style"] == "real":
            assert completion["found"] == completion["labels"]


def test_means_are_over_completions():
    means = mean_behaviours(["1+1=2 no\n2+2=4 yes", "I guess.", "1+1=3 no", ""])
    assert means == {
        "attempts": 0.75,
        "verifications": 0.75,
        "backtracks": 0.25,
        "self_corrections": 0.0,
        "slips": 0.25,
    }
