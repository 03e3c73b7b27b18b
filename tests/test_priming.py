"""The supervised warm start, on a tiny real model."""

import itertools
import random

from keras_aha.priming import _batches, prime
from keras_aha.special_tokens import turn_end_id
from keras_aha.tasks.countdown import Countdown

import numpy as np
import pytest

HABITS = {"max_attempts": 2}


@pytest.fixture(scope="module")
def task():
    return Countdown(num_numbers=3, max_number=10, template="compact")


@pytest.fixture(scope="module")
def batches(gemma, task):
    generator = _batches(gemma.preprocessor.tokenizer, task, 4, turn_end_id(gemma.preprocessor.tokenizer), 0, HABITS)
    return list(itertools.islice(generator, 16))  # one pool: the first 64 problems


def test_shapes(batches):
    for inputs, targets, weights in batches:
        assert inputs["token_ids"].shape == inputs["padding_mask"].shape == targets.shape == weights.shape
        assert targets.shape[0] == 4 and targets.shape[1] % 64 == 0
        np.testing.assert_array_equal(inputs["token_ids"][:, 1:], targets[:, :-1])
        assert set(np.unique(weights)) == {0.0, 1.0}


def test_prompts_are_read_and_completions_learned(gemma, task, batches):
    tokenizer = gemma.preprocessor.tokenizer
    seen = []
    for inputs, targets, weights in batches:
        for ids, mask, target, weight in zip(*inputs.values(), targets, weights, strict=True):
            first = int(np.argmax(weight))  # the position that predicts the completion's first token
            prompt, completion = ids[: first + 1], target[weight > 0]
            assert prompt[0] == tokenizer.start_token_id
            assert completion[-1] == tokenizer.token_to_id("<end_of_turn>")
            assert (np.diff(np.flatnonzero(weight)) == 1).all()
            assert mask.sum() == len(prompt) + len(completion) and (np.diff(mask) <= 0).all()
            seen.append((tokenizer.detokenize(prompt[1:].tolist()), tokenizer.detokenize(completion[:-1].tolist())))
    rng, expected = random.Random(0), []
    for problem in [task.problem(i) for i in range(64)]:
        expected.append((task.prompt(problem), task.worked_solution(problem, rng, **HABITS)))
    assert sorted(seen) == sorted(expected)


def test_a_batch_holds_rows_of_like_length(batches):
    lengths = [inputs["padding_mask"].sum(axis=1) for inputs, _, _ in batches]
    spread = np.mean([length.max() - length.min() for length in lengths])
    assert spread < 0.2 * np.ptp(np.concatenate(lengths))


def test_later_pools_have_later_problems(gemma, task, batches):
    generator = _batches(gemma.preprocessor.tokenizer, task, 4, turn_end_id(gemma.preprocessor.tokenizer), 0, HABITS)
    later = list(itertools.islice(generator, 16, 32))
    assert {row.tobytes() for _, targets, _ in batches for row in targets}.isdisjoint(
        {row.tobytes() for _, targets, _ in later for row in targets}
    )


@pytest.fixture(scope="module")
def primed(make_policy, task):
    """A function: primes a fresh policy and returns `(weights before, weights after, history)`."""

    def run():
        policy = make_policy("gemma", num_layers=1)
        before = [np.asarray(variable) for variable in policy.variables]
        history = prime(policy, task, steps=60, batch_size=8, learning_rate=1e-2, habits=HABITS, seed=4)
        return before, [np.asarray(variable) for variable in policy.variables], history.history

    return run


def test_the_loss_falls_and_the_same_seed_gives_the_same_weights(primed):
    before, after, history = primed()
    assert len(history["loss"]) == 60
    assert np.mean(history["loss"][-5:]) < 0.6 * history["loss"][0]
    assert np.mean(history["accuracy"][-5:]) > history["accuracy"][0]
    assert all(np.any(old != new) for old, new in zip(before, after, strict=True))

    _, again, same_history = primed()
    assert same_history == history
    for one, other in zip(after, again, strict=True):
        np.testing.assert_array_equal(one, other)
