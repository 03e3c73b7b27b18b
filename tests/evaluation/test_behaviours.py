import sys
import time
from dataclasses import astuple, fields
from pathlib import Path

from keras_aha.evaluation.behaviours import MAX_LENGTH, Behaviours, count_behaviours, mean_behaviours
from keras_aha.tasks import CountdownProblem

import hostile_completions as hostile
import pytest
from hypothesis import given, settings

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from behaviour_table import precision_and_recall, read  # noqa: E402


@pytest.mark.parametrize(
    ("text", "counts"),  # attempts, verifications, backtracks, self-corrections, slips
    [
        ("9-1=8,8/4=2 no\n9-1=8,8+4=12 yes\n</think>\n<answer>(9-1)+4</answer>", (2, 2, 1, 0, 0)),
        ("</think>\n<answer>1+2=3</answer>", (0, 0, 0, 0, 0)),
        ("9-1=8,8/4=2 no\n</think>\n<answer>9</answer>", (1, 1, 0, 0, 0)),  # it failed, and nothing followed
        ("3 + 4 = 7, that is not 10\nThen 3 * 4 = 12, too big.\n3 + 7 = 10, correct!", (3, 3, 2, 1, 0)),
        ("3 + 4 = 7. Hmm.\nThat doesn't work, so (3 + 3) * 4 = 24", (2, 1, 1, 1, 0)),  # on the next attempt's line
        ("3+4=7\nAll right, let me see 5+5=10", (2, 0, 0, 0, 0)),
        ("8\u00f72=4 no\n8\u00d72=16 no\n8\u22122=6 yes", (3, 3, 2, 0, 0)),
        ("x = 3 + 4\nthe target = 10\n= 5\n3 = 3\n-3 = 5\n2010-2020", (0, 0, 0, 0, 0)),
        ("Wait. Actually, hold on.", (0, 0, 0, 3, 0)),
        ("The waiter can wait; wait for it, wait until noon, in actuality.", (0, 0, 0, 0, 0)),
        ("Let me try 1+1=2.", (1, 0, 0, 0, 0)),  # nothing was tried before
        ("1+1=2. Let me try 1+2=3. Let\u2019s try again.", (2, 0, 1, 2, 0)),
        ("1+1=2, that is not 3. It doesn't work. THIS ISN'T IT.", (1, 1, 0, 3, 0)),
        # A slip put right is no further attempt, and neither is going over what was found.
        ("9-1=7. Wait, 9-1=8, 8+4=12 yes", (1, 1, 0, 1, 1)),
        ("9-1=8 yes. Check: 9-1=8 yes", (1, 1, 0, 0, 0)),
        ("9-1=8 no. Check: 9-1=8 no", (2, 2, 1, 0, 0)),
        ("1+1=2 no\n".rjust(MAX_LENGTH) + "1+1=3 no\n", (1, 1, 0, 0, 0)),  # what is beyond the limit is not read
    ],
)
def test_by_hand(text, counts):
    assert astuple(count_behaviours(text)) == counts


def test_means_are_over_completions():
    means = mean_behaviours(["1+1=2 no\n2+2=4 yes", "I guess.", "1+1=3 no", ""])
    expected = dict(attempts=0.75, verifications=0.75, backtracks=0.25, self_corrections=0.0, slips=0.25)
    assert means == expected


@settings(max_examples=200, deadline=None)
@given(hostile.any_texts(CountdownProblem((1, 2, 3), 9)))
def test_counts_are_of_attempts(text):
    behaviours = count_behaviours(text)
    assert 0 <= behaviours.verifications <= behaviours.attempts
    assert 0 <= behaviours.backtracks <= max(behaviours.attempts - 1, 0)
    assert behaviours.self_corrections >= 0 and behaviours.slips >= 0


SLOW = [
    *hostile.TAGS,
    *("9-1=8", "=2", "1+1=2 no\n", "is the target wait\n", "= - ", ")-((-", "isn't ", "that is ", "let me ", "- - "),
    *("-(", "1 x ", "**", "1**", "1,000", "1 is ", "1=1=", "1+1=2,", "\\frac{", "\\frac{1}{", "\n ", " 1 + ", "=1/1"),
]


def test_no_text_takes_long():
    """Less than 50 ms of a quiet machine's processor (LOG.md); one that others keep busy is given twice as much."""
    texts = [piece * (200_000 // len(piece)) for piece in SLOW]
    texts.append("".join(f"{i}.5-1={i}.5 " for i in range(20_000)))  # no two of them the same
    texts.append("".join(f"{i // 100 % 100}-{i % 100}={i // 10000}," for i in range(20_000)))
    for text in texts:
        assert min(seconds_of(text) for _ in range(3)) < 0.1, text[:20]


def seconds_of(text):
    start = time.process_time()
    count_behaviours(text)
    return time.process_time() - start


# === The labelled table ===

# Precision and recall, at least, over all completions that were counted by hand; a little below what was measured
# (LOG.md), so that a counter which becomes worse is noticed.
FLOORS = {"attempts": (0.97, 0.92), "verifications": (0.97, 0.86), "backtracks": (0.97, 0.86)}
FLOORS |= {"self_corrections": (0.95, 0.92), "slips": (0.99, 0.95)}


def test_precision_and_recall_by_hand():
    pairs = [(3, 4), (2, 2), (1, 0)]  # there, counted: 3 and 2 of 6 counted are there, 3 and 2 of 6 there are counted
    rows = [{"labels": {"attempts": there}, "found": {"attempts": counted}} for there, counted in pairs]
    scores = precision_and_recall(rows)["attempts"]
    assert scores == {"there": 6, "found": 6, "precision": 5 / 6, "recall": 5 / 6}


def test_the_labelled_completions():
    completions = read()
    assert len(completions) >= 60
    assert {completion["style"] for completion in completions} == {"real", "shorthand", "plain", "unseen"}
    assert all([*completion["labels"]] == [field.name for field in fields(Behaviours)] for completion in completions)
    scores = precision_and_recall(completions)
    for name, (precision, recall) in FLOORS.items():
        assert scores[name]["precision"] >= precision and scores[name]["recall"] >= recall, name
    real = [completion for completion in completions if completion["style"] == "real"]
    assert all(completion["found"] == completion["labels"] for completion in real)  # those of the embedded model
