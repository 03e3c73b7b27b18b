"""The supervised warm start, on a tiny real model."""

import itertools
import random

from keras_aha.callbacks.checkpoint_callback import CheckpointCallback
from keras_aha.tasks import Countdown, Mixture, Signs
from keras_aha.tasks.chat import Piece
from keras_aha.tasks.held_out_split import stable_hash
from keras_aha.training.example_batches import _rounded_up, endless_batches, padded, shuffled, solutions
from keras_aha.training.examples import make_examples
from keras_aha.training.priming import _schedule, prime

import keras
import numpy as np
import pytest

HABITS = {"max_attempts": 2}


@pytest.fixture(scope="module")
def task():
    return Countdown(num_numbers=3, max_number=10, template="compact")


def batches_of(policy, task, habits=HABITS, seed=0, first=0):
    tokenizer = policy.preprocessor.tokenizer
    return endless_batches(solutions(task, tokenizer, None, seed, habits), 4, seed, first)


@pytest.fixture(scope="module")
def batches(gemma, task):
    return list(itertools.islice(batches_of(gemma, task), 32))  # two pools of 64 problems


def test_prompts_are_read_and_completions_learned(gemma, task, batches):
    tokenizer = gemma.preprocessor.tokenizer
    seen = []
    for inputs, completion_mask in batches:
        rows, length = completion_mask.shape
        assert rows == 4 and (length == 32 or length % 64 == 0) and inputs["prompt_ids"].shape[1] in (16, 32)
        for *arrays, taught in zip(*inputs.values(), completion_mask, strict=True):
            mask = np.hstack([arrays[1], taught])
            prompt, completion = arrays[0][arrays[1] > 0], arrays[2][taught > 0]
            assert prompt[0] == tokenizer.start_token_id
            assert completion[-1] == tokenizer.token_to_id("<end_of_turn>")
            assert (np.diff(np.flatnonzero(mask)) == 1).all()  # nothing between them
            seen.append((tokenizer.detokenize(prompt[1:].tolist()), tokenizer.detokenize(completion[:-1].tolist())))
    expected = []
    for i, problem in enumerate([task.problem(i) for i in range(64)]):
        rng = random.Random(stable_hash("worked solution", 0, i))
        expected.append((task.prompt(problem), task.worked_solution(problem, rng, **HABITS)))
    assert sorted(seen[:64]) == sorted(expected)
    assert sorted(text for text, _ in seen[64:]) == sorted(task.prompt(task.problem(i)) for i in range(64, 128))


def test_a_mixture_is_imitated_in_one_batch(make_policy, task):
    policy = make_policy("gemma", num_layers=1)
    tokenizer, signs = policy.preprocessor.tokenizer, Signs(max_number=9, max_target=30, template="compact")
    mixture = Mixture([task, signs], habits=[HABITS, {"straight": True}])
    inputs = [inputs for inputs, _ in itertools.islice(batches_of(policy, mixture, {}), 16)]
    texts = [tokenizer.detokenize(ids[ids > 0].tolist()) for batch in inputs for ids in batch["prompt_ids"]]
    expected = [mixture.prompt(mixture.problem(i)) for i in range(64)]
    assert sorted(text.removeprefix("<bos>") for text in texts) == sorted(expected)
    history = prime(policy, mixture, steps=2, batch_size=4, seed=3)
    assert np.isfinite(history.history["loss"]).all()


def test_a_batch_holds_completions_of_like_length(batches):
    lengths = [mask.sum(axis=1) for _, mask in batches[:16]]
    spread = np.mean([length.max() - length.min() for length in lengths])
    assert spread < 0.2 * np.ptp(np.concatenate(lengths))


def test_the_first_loss_is_the_cross_entropy_of_completions(make_policy, task):
    """By NumPy, from the logits of all positions."""
    policy = make_policy("gemma", num_layers=1)
    expected = oracle(policy, *next(batches_of(policy, task, seed=3)))
    history = prime(policy, task, steps=1, batch_size=4, learning_rate=1e-2, habits=HABITS, seed=3)
    np.testing.assert_allclose(history.history["loss"], [expected], rtol=1e-5)


def oracle(policy, inputs, mask):
    token_ids, padding_mask = np.hstack([*inputs.values()][::2]), np.ones((len(mask), mask.shape[1]))
    padding_mask = np.hstack([inputs["prompt_mask"], padding_mask]).astype("int32")
    logits = np.asarray(policy({"token_ids": token_ids, "padding_mask": padding_mask}), "float64")[:, :-1]
    log_probs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    chosen = np.take_along_axis(log_probs, token_ids[:, 1:, None], axis=-1)[..., 0][:, -mask.shape[1] :]
    return -np.sum(chosen * mask) / mask.sum()


def test_adapters_alone_are_trained_and_merged(make_policy, task):
    policy = make_policy("gemma", num_layers=1, lora_rank=2, fresh_adapters=True)
    before = {variable.path: np.asarray(variable) for variable in policy.backbone.variables}
    prime(policy, task, steps=4, batch_size=4, learning_rate=1e-2, habits=HABITS)
    after = {variable.path: np.asarray(variable) for variable in policy.backbone.variables}
    for path, value in after.items():
        if path.endswith("lora_kernel_b"):
            assert not value.any()  # the reference is now the primed policy
        elif path.endswith("lora_kernel_a") or path.replace("/kernel", "/lora_kernel_a") in after and "/kernel" in path:
            assert np.any(value != before[path]), path
        else:
            np.testing.assert_array_equal(value, before[path])


@pytest.mark.parametrize("steps", (1, 2, 30, 1000))
def test_the_rate_ends_at_a_hundredth_of_its_peak(steps):
    rate, warm_up = _schedule(0.5, steps), max(1, steps // 20)
    assert float(rate(0)) == 0.0 and float(rate(warm_up)) == pytest.approx(0.5)
    assert float(rate(warm_up + max(1, steps - warm_up))) == pytest.approx(0.005)
    assert warm_up + max(1, steps - warm_up) == max(2, steps)


def test_bad_habits_are_an_error_at_once(gemma, task):
    with pytest.raises(TypeError, match="unexpected keyword argument 'hope'"):
        prime(gemma, task, habits={"hope": 1})


def test_the_loss_falls_and_the_same_seed_gives_the_same_weights(make_policy, task):
    def primed():
        policy = make_policy("gemma", num_layers=1)
        before = [np.asarray(variable) for variable in policy.variables]
        history = prime(policy, task, steps=60, batch_size=8, learning_rate=1e-2, habits=HABITS, seed=4)
        return before, [np.asarray(variable) for variable in policy.variables], history.history

    before, after, history = primed()
    assert len(history["loss"]) == 60
    assert np.mean(history["loss"][-5:]) < 0.6 * history["loss"][0]
    assert all(np.any(old != new) for old, new in zip(before, after, strict=True))

    _, again, same_history = primed()
    assert same_history == history
    for one, other in zip(after, again, strict=True):
        np.testing.assert_array_equal(one, other)


# === Examples ===


@pytest.fixture(scope="module")
def examples(gemma):
    """Of many lengths; in every second one two turns are learned."""
    texts = [[Piece(f"Use {i} ", False), Piece(f"{'1 2 ' * (i % 9)}no", True)] for i in range(40)]
    texts = [text if i % 2 else [*text, Piece("Use 3", False), text[1]] for i, text in enumerate(texts)]
    return make_examples(gemma.preprocessor.tokenizer, texts)


def test_the_held_out_loss_is_the_cross_entropy_of_what_is_learned(make_policy, examples):
    policy, history = make_policy("gemma", num_layers=1), []
    held_out = examples[4:10]
    after = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: history.append(oracle(policy, *padded(held_out))))
    result = prime(policy, examples, steps=2, batch_size=6, learning_rate=1e-2, held_out=held_out, callbacks=[after])
    np.testing.assert_allclose(result.history["val_loss"], history, rtol=1e-5)
    assert history[0] != history[1]


def test_batches_depend_on_the_seed_and_the_step_alone(gemma, task, examples):
    """Each pass has every example once, in an order of its own."""

    def rows(batches, count):
        return [inputs["completion_ids"].tobytes() for inputs, _ in itertools.islice(batches, count)]

    for batches in (
        lambda first: batches_of(gemma, task, first=first),
        lambda first: endless_batches(shuffled(examples, 3), 4, 3, first),
    ):
        whole = rows(batches(0), 40)
        for first in (1, 15, 16, 33):
            assert rows(batches(first), 40 - first) == whole[first:]
    read, orders = shuffled(examples, 3), []
    for turn in range(2):
        ids = [tuple(row.prompt_ids) for row in read(range(40 * turn, 40 * turn + 40))]
        assert sorted(ids) == sorted(tuple(row.prompt_ids) for row in examples)
        orders.append(ids)
    assert orders[0] != orders[1] and rows(endless_batches(shuffled(examples, 4), 4, 4), 40) != whole


class Killed(Exception):
    """Ends training as a kill would, after the checkpoint."""


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_what_is_restored_goes_on_to_the_last_bit(lora_rank, make_policy, examples, tmp_path):
    def train(folder=None, stop=None):
        policy = make_policy("gemma", num_layers=1, lora_rank=lora_rank, fresh_adapters=True)
        checkpoints = CheckpointCallback(folder) if folder else None
        settings = dict(steps=6, batch_size=4, learning_rate=1e-2, seed=5, held_out=examples[:6])

        def end(epoch, logs):
            if epoch == stop:
                raise Killed

        callbacks = [*([checkpoints] if folder else []), keras.callbacks.LambdaCallback(on_epoch_end=end)]
        try:
            restore = checkpoints.restore if folder else None
            history = prime(policy, examples, **settings, callbacks=callbacks, restore=restore).history
        except Killed:
            checkpoints.close()
            return None
        return history, [np.asarray(variable) for variable in policy.variables]

    history, weights = train()
    train(tmp_path, stop=1)
    train(tmp_path, stop=3)
    rest, restored = train(tmp_path)
    assert {name: rest[name] for name in history} == {name: values[4:] for name, values in history.items()}
    for one, other in zip(weights, restored, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("n, rounded", [(1, 32), (32, 32), (33, 64), (65, 128), (511, 512), (600, 640), (8000, 8192)])
def test_a_long_row_is_padded_by_a_quarter_at_most(n, rounded):
    assert _rounded_up(n, 64) == rounded


def test_nothing_to_imitate(gemma, examples):
    with pytest.raises(ValueError, match="`examples` must hold one example or more. Received: none"):
        prime(gemma, [])
