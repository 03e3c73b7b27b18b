import json
import math
import random
import time
from types import SimpleNamespace

from keras_aha.callbacks.doctor_history import observe, repeated_tail
from keras_aha.evaluation.turn_habits import imitated_observations
from keras_aha.tasks.task import Score
from keras_aha.tasks.turn import Observation, Turn

import numpy as np


def slow_repeated_tail(text):
    """The definition, word by word: the shortest unit whose repetitions, from the end, cover what they must."""
    for unit in range(1, 101):
        wanted = max(4 * unit, 40)
        written = text[-unit:] * wanted
        if len(text) >= wanted and text[-wanted:] == written[-wanted:]:
            return unit
    return 0


def test_repeated_tails_are_those_of_the_definition():
    edges = ["", "ha " * 13, "ha " * 13 + "h", "=" * 39 + ".", "1000000000", "ü☃" * 20]
    edges += [("a" * 99 + "b") * 4, ("a" * 100 + "b") * 4, "x" * 60 + "9-1=8 no\n" * 5, "9-1=8 no\n" * 5 + "</think>"]
    assert [repeated_tail(text) for text in edges] == [0, 0, 3, 0, 0, 2, 100, 0, 9, 0]
    rng = random.Random(0)
    for _ in range(300):
        unit = "".join(rng.choice("ab") for _ in range(rng.randint(1, 30)))
        edges.append("".join(rng.choice("ab") for _ in range(20)) + unit * rng.randint(1, 12) + rng.choice(["", "a"]))
    tails = [repeated_tail(text) for text in edges]
    assert tails == [slow_repeated_tail(text) for text in edges]
    assert 50 < np.count_nonzero(tails) < 250
    start = time.perf_counter()
    assert repeated_tail("ab" * 10**6 + "c") == repeated_tail(("a" * 101 + "b") * 10**4) == 0
    assert time.perf_counter() - start < 0.5  # a hostile text costs no more than a short one


def test_what_is_remembered_of_an_epoch():
    """As JSON has it. Only the first text loops up to the limit; entropies are 3, 0.5, 0 and 0.5 nats."""
    rollout = SimpleNamespace(
        texts=("ha " * 20, "ha " * 20, "<answer> 8 apples</answer>", "no end"),
        scores=[Score(0.1, False, "wrong_value"), Score(1.0, True, "correct"), Score(0, False, "not_an_expression")]
        + [Score(0, False, "no_answer")],
        truncated=np.array([True, False, False, True]),
        sampler_log_probs=np.array([[-1, -2], [-0.5, 0], [0, 0], [-0.25, -0.25]], "float32"),
        turns=(),
    )
    logs = {"reward": np.float32(0.5), "grad_norm": math.nan, "loss": 1.0, "compiles": 2}
    logs |= {"reward_polite": np.float32(0.75), "reward_logged": 3.0}
    seen = observe(logs, rollout, {"polite": 0.5, "logged": 0, "failed": 1}, moved=True)
    told = {"completions": 4.0, "answer_rewards": 2.0, "repeated_tails": 0.25, "completion_entropy": 1.0}
    told |= {"unreadable": 0.25, "unreadable_answers": ["8 apples"]}
    assert seen == told | {"reward": 0.5, "compiles": 2.0, "moved": 1.0, "reward_polite": 0.75, "weight_polite": 0.5}
    assert json.loads(json.dumps(seen, allow_nan=False)) == seen
    call = Turn("<f>1</f>", Observation("2", "<result>", tool="f"))
    rollout.turns = ((call, call, Turn("<f>1</f>")), (call, call, Turn("2")), (Turn("<result>2"),), (call, call))
    turns = {"turns": 2.25, "endless_calls": 0.5, "imitated_observations": 0.25}  # the last is truncated
    assert turns["imitated_observations"] == imitated_observations(rollout.turns)
    logs |= {"turns": 2.25, "imitated_observations": 0.25}
    assert observe(logs, rollout, {"polite": 0.5, "logged": 0, "failed": 1}, moved=True) == seen | turns
