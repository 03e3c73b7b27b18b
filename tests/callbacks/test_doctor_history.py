import json
import math
import random
import time
from types import SimpleNamespace

from keras_aha.callbacks.doctor_history import observe, repeated_tail
from keras_aha.tasks.task import Score

import numpy as np
import pytest


def slow_repeated_tail(text):
    """The definition, word by word: the shortest unit whose repetitions, from the end, cover what they must."""
    for unit in range(1, 101):
        wanted = max(4 * unit, 40)
        written = text[-unit:] * wanted
        if len(text) >= wanted and text[-wanted:] == written[-wanted:]:
            return unit
    return 0


@pytest.mark.parametrize(
    "text, unit",
    [
        ("", 0),
        ("short", 0),
        ("ha " * 13, 0),  # 39 characters
        ("ha " * 13 + "h", 3),  # 40, the last unit a part
        ("9-1=8,8/4=2 no\n" + "!" * 40, 1),
        ("=" * 39 + ".", 0),
        ("9-1=8,8/4=2 no\n" * 3, 0),
        ("9-1=8,8/4=2 no\n" * 4, 15),
        ("x" * 60 + "9-1=8,8/4=2 no\n" * 4, 15),
        ("9-1=8,8/4=2 no\n" * 4 + "</think>", 0),
        (("a" * 99 + "b") * 4, 100),
        (("a" * 100 + "b") * 4, 0),
        ("1000000000", 0),
        ("ü☃" * 20, 2),
    ],
)
def test_repeated_tails(text, unit):
    assert repeated_tail(text) == unit == slow_repeated_tail(text)


def test_repeated_tails_are_those_of_the_definition():
    rng = random.Random(0)
    found = 0
    for _ in range(300):
        unit = "".join(rng.choice("ab") for _ in range(rng.randint(1, 30)))
        text = "".join(rng.choice("ab") for _ in range(20)) + unit * rng.randint(1, 12) + rng.choice(["", "a"])
        assert repeated_tail(text) == slow_repeated_tail(text)
        found += repeated_tail(text) > 0
    assert 50 < found < 250


def test_a_hostile_text_costs_no_more_than_a_short_one():
    start = time.perf_counter()
    for text in ("a" * 10**6 + "b", "ab" * 10**6 + "c", ("a" * 101 + "b") * 10**4):
        assert repeated_tail(text) == 0
    assert time.perf_counter() - start < 0.5


ROLLOUT = SimpleNamespace(
    texts=("ha " * 20, "ha " * 20, "a sum", "no end"),
    scores=(
        Score(0.1, False, "wrong_value"),
        Score(1.0, True, "correct"),
        Score(0.1, False, "wrong_value"),
        Score(0, False, "no_answer"),
    ),
    truncated=np.array([True, False, False, True]),
    sampler_log_probs=np.array([[-1, -2], [-0.5, 0], [0, 0], [-0.25, -0.25]], "float32"),
)


def test_what_a_rollout_tells():
    """Only the first text loops up to the limit; entropies are 3, 0.5, 0 and 0.5 nats."""
    assert observe({}, ROLLOUT) == {
        "completions": 4.0,
        "answer_rewards": 2.0,
        "repeated_tails": 0.25,
        "completion_entropy": 1.0,
    }


def test_logs_that_findings_read_are_remembered_as_json_has_them():
    logs = {"reward": np.float32(0.5), "grad_norm": math.nan, "loss": 1.0, "compiles": 2}
    seen = observe(logs, ROLLOUT, moved=True)
    assert {name: seen[name] for name in ("reward", "compiles", "moved")} == {"reward": 0.5, "compiles": 2, "moved": 1}
    assert "grad_norm" not in seen and "loss" not in seen
    assert json.loads(json.dumps(seen, allow_nan=False)) == seen
