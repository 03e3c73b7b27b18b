"""`prime`: supervised warm start on a task's worked solutions."""

import random
from collections.abc import Iterator

from keras_aha.models import lora
from keras_aha.models.special_tokens import prompt_ids, turn_end_id
from keras_aha.tasks.task import Task
from keras_aha.training.linear_gradients import linear_gradients
from keras_aha.training.log_probs import completion_log_probs
from keras_aha.training.rollout import split_texts

import jax.numpy as jnp
import keras
import keras_hub
import numpy as np
import tensorflow as tf

_LENGTH_STEPS = 32, 64  # prompts and completions are padded to multiples of these, so that few programs are compiled,
# or to half of one if they are as short as that.
_INPUTS = ("prompt_ids", "prompt_mask", "completion_ids")
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

    If the policy has adapters, they alone are trained. Then they are merged into the kernels, so that the primed policy
    is the reference of GRPO. Quantized kernels cannot take adapters up: there they stay beside them.

    Adam with a linear warm-up over a twentieth of the steps and a cosine decay to a hundredth of the peak. The
    logits of all positions are never held at once, see `completion_log_probs`.

    Args:
        policy: a `CausalLM` with a preprocessor, such as `load_policy(preset)` or, for adapters alone,
            `load_policy(preset, lora_rank=8)`; it is changed in place.
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
        The `History` of `fit`, with the `loss`, in nats a token.

    Raises:
        ValueError: if the vocabulary lacks the `stop_token`.
        NotImplementedError, TypeError: if the task has no worked solutions, or not with these habits.
    """
    tokenizer = policy.preprocessor.tokenizer
    stop_id = turn_end_id(tokenizer, stop_token)
    task.worked_solution(task.problem(0), random.Random(seed), **habits or {})  # an error here is one, in `fit` a page
    imitator, schedule = _Imitator(policy), _schedule(learning_rate, steps)
    imitator.compile(keras.optimizers.Adam(schedule, beta_2=0.99, global_clipnorm=1.0), loss=_cross_entropy)
    specs = {name: tf.TensorSpec((None, None), "int32") for name in _INPUTS}
    batches = tf.data.Dataset.from_generator(
        lambda: _batches(tokenizer, task, batch_size, stop_id, seed, habits or {}),
        output_signature=(specs, tf.TensorSpec((None, None), "float32")),
    )
    steps_per_epoch = max(1, steps // 50)
    settings = dict(epochs=steps // steps_per_epoch, steps_per_epoch=steps_per_epoch, callbacks=callbacks, verbose=2)
    history = imitator.fit(batches, shuffle=False, **settings)  # the batches are shuffled already
    lora.merge(policy)
    return history


def _schedule(peak: float, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    warm_up = max(1, steps // 20)
    settings = dict(alpha=0.01, warmup_target=peak, warmup_steps=warm_up)
    return keras.optimizers.schedules.CosineDecay(0.0, max(1, steps - warm_up), **settings)  # counted after the warm-up


class _Imitator(keras.Model):
    """A policy as a model of completions: texts → the log-prob of each token of a completion."""

    def __init__(self, policy):
        super().__init__()
        self.policy = policy

    def call(self, inputs):
        """`{"prompt_ids", "prompt_mask"}`, `(B, L)`, and `"completion_ids"` `(B, C)` → `(B, C)`."""
        arrays = (inputs[name] for name in ("prompt_ids", "prompt_mask", "completion_ids"))
        with linear_gradients(self.policy):
            return completion_log_probs(self.policy, *arrays, jnp.ones(len(inputs["prompt_ids"])))[0]


def _cross_entropy(mask, log_probs):
    return -keras.ops.sum(mask * log_probs) / keras.ops.sum(mask)


def _batches(tokenizer, task: Task, batch_size: int, stop_id: int, seed: int, habits: dict) -> Iterator[tuple]:
    """Endless batches of `(inputs, completion_mask)`, the texts left-padded to where completions begin."""
    rng = random.Random(seed)
    index = 0
    while True:
        problems = [task.problem(i) for i in range(index, index + _POOL * batch_size)]
        index += len(problems)
        prompts = prompt_ids(tokenizer, [task.prompt(problem) for problem in problems])
        completions = tokenizer([task.worked_solution(problem, rng, **habits) for problem in problems])
        rows = [(prompt, [*row, stop_id]) for prompt, row in zip(prompts, completions, strict=True)]
        rows.sort(key=lambda row: len(row[1]))
        pool = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
        rng.shuffle(pool)
        yield from map(_padded, pool)


def _padded(rows: list[tuple[list[int], list[int]]]) -> tuple:
    longest = (max(map(len, part)) for part in zip(*rows, strict=True))
    start, length = (_up_to_a_multiple(n, step) for n, step in zip(longest, _LENGTH_STEPS, strict=True))
    token_ids = np.zeros((len(rows), start + length), "int32")
    padding_mask = np.zeros_like(token_ids)
    for i, (prompt, completion) in enumerate(rows):
        text = slice(start - len(prompt), start + len(completion))
        token_ids[i, text] = [*prompt, *completion]
        padding_mask[i, text] = 1
    return split_texts(token_ids, padding_mask, length), padding_mask[:, start:].astype("float32")


def _up_to_a_multiple(n: int, step: int) -> int:
    return step // 2 if n <= step // 2 else -(-n // step) * step
