"""Supervised warm start on a task's worked solutions, through the stock `CausalLM.fit`."""

import random
from collections.abc import Iterator

from keras_aha.special_tokens import prompt_ids, turn_end_id
from keras_aha.tasks.task import Task

import keras
import keras_hub
import numpy as np
import tensorflow as tf

_LENGTH_STEP = 64  # batches are padded to multiples of this, so that few programs are compiled
_POOL = 16  # batches drawn together and sorted by length, so that little padding is trained on


def prime(
    policy: keras_hub.models.CausalLM,
    task: Task,
    *,
    steps: int = 2000,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    stop_token: str | None = None,
    seed: int = 0,
    habits: dict | None = None,
    callbacks: list | None = None,
) -> keras.callbacks.History:
    """Trains `policy` to write `task`'s worked solutions; only what follows the prompt is learned.

    Adam with a linear warm-up over a twentieth of the steps and a cosine decay to a hundredth of the peak.

    Args:
        policy: a `CausalLM` with a preprocessor; its trainable variables are changed in place.
        task: a task with worked solutions; its training problems are used in order from the first.
        steps: optimizer steps, of `batch_size` solutions each; rounded down to whole epochs.
        batch_size: solutions a step.
        learning_rate: the peak of the schedule.
        stop_token: what the policy writes after a completion; `None` takes what ends a turn in its vocabulary, see
            `turn_end_id`.
        seed: of the worked solutions' random choices.
        habits: keyword arguments of `task.worked_solution`, e.g. `{"guess_rate": 0.1}`.
        callbacks: Keras callbacks; an epoch is a fiftieth of the steps.

    Returns:
        The `History` of `fit`, with `loss` and `accuracy` of the next token.

    Raises:
        ValueError: if the vocabulary lacks the `stop_token`.
    """
    tokenizer = policy.preprocessor.tokenizer
    stop_id = turn_end_id(tokenizer, stop_token)
    trainee = type(policy)(backbone=policy.backbone, preprocessor=None)  # shares every variable; takes token ids
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps, alpha=0.01, warmup_target=learning_rate, warmup_steps=max(1, steps // 20)
    )
    trainee.compile(
        keras.optimizers.Adam(schedule, beta_2=0.99, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight"),
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    rows = (None, None)
    batches = tf.data.Dataset.from_generator(
        lambda: _batches(tokenizer, task, batch_size, stop_id, seed, habits or {}),
        output_signature=(
            {"token_ids": tf.TensorSpec(rows, "int32"), "padding_mask": tf.TensorSpec(rows, "int32")},
            tf.TensorSpec(rows, "int32"),
            tf.TensorSpec(rows, "float32"),
        ),
    )
    steps_per_epoch = max(1, steps // 50)
    return trainee.fit(
        batches,
        epochs=steps // steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        shuffle=False,  # the batches are shuffled already
        callbacks=callbacks,
        verbose=2,
    )


def _batches(tokenizer, task: Task, batch_size: int, stop_id: int, seed: int, habits: dict) -> Iterator[tuple]:
    """Endless batches of `(inputs, next token ids, weights)`, each array `(batch_size, length)`."""
    rng = random.Random(seed)
    index = 0
    while True:
        problems = [task.problem(i) for i in range(index, index + _POOL * batch_size)]
        index += len(problems)
        prompts = prompt_ids(tokenizer, [task.prompt(problem) for problem in problems])
        completions = tokenizer([task.worked_solution(problem, rng, **habits) for problem in problems])
        rows = [(prompt, [*row, stop_id]) for prompt, row in zip(prompts, completions, strict=True)]
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        pool = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
        rng.shuffle(pool)
        yield from map(_padded, pool)


def _padded(rows: list[tuple[list[int], list[int]]]) -> tuple:
    longest = max(len(prompt) + len(completion) for prompt, completion in rows)
    length = -(-longest // _LENGTH_STEP) * _LENGTH_STEP + 1  # one more, for the shift by one
    token_ids = np.zeros((len(rows), length), "int32")
    padding_mask = np.zeros((len(rows), length), "int32")
    weights = np.zeros((len(rows), length), "float32")
    for i, (prompt, completion) in enumerate(rows):
        end = len(prompt) + len(completion)
        token_ids[i, :end] = [*prompt, *completion]
        padding_mask[i, :end] = 1
        weights[i, len(prompt) : end] = 1.0
    return {"token_ids": token_ids[:, :-1], "padding_mask": padding_mask[:, :-1]}, token_ids[:, 1:], weights[:, 1:]
