"""`prime`: supervised fine-tuning on examples, or on a task's worked solutions, before GRPO."""

from collections.abc import Callable, Sequence

from keras_aha.models import lora
from keras_aha.tasks.task import Task
from keras_aha.training.example_batches import by_length, endless_batches, padded, shuffled, solutions
from keras_aha.training.examples import Example
from keras_aha.training.linear_gradients import linear_gradients
from keras_aha.training.log_probs import completion_log_probs

import jax.numpy as jnp
import keras
import keras_hub
import tensorflow as tf

_INPUTS = ("prompt_ids", "prompt_mask", "completion_ids")


def prime(
    policy: keras_hub.models.CausalLM,
    examples: Task | Sequence[Example],
    *,
    steps: int = 2000,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    stop_token: str | None = None,
    seed: int = 0,
    habits: dict | None = None,
    held_out: Sequence[Example] | None = None,
    restore: Callable[[keras.Model], int] | None = None,
    callbacks: list | None = None,
    verbose: int = 2,
) -> keras.callbacks.History:
    """Trains `policy` to write examples, such as a task's worked solutions; prompts are read and not learned.

    If the policy has adapters, they alone are trained. Then they are merged into the kernels, so that the primed policy
    is the reference of GRPO. Quantized kernels cannot take adapters up: there they stay beside them.

    Adam with a linear warm-up over a twentieth of the steps and a cosine decay to a hundredth of the peak. The
    logits of all positions are never held at once, see `completion_log_probs`.

    A batch holds texts of like length and depends on the seed and its step alone, so that what is restored goes on as
    if it had not been stopped.

    Args:
        policy: a `CausalLM` with a preprocessor, such as `load_policy(preset)` or, for adapters alone,
            `load_policy(preset, lora_rank=8)`; it is changed in place.
        examples: what `make_examples` returns, shuffled for each pass; or a task with worked solutions, whose training
            problems are used in order from the first.
        steps: optimizer steps, of `batch_size` examples each; rounded down to whole epochs.
        batch_size: examples a step.
        learning_rate: the peak of the schedule.
        stop_token: what the policy writes after a completion; `None` takes what ends a turn in its vocabulary, see
            `turn_end_id`.
        seed: of the order of examples, and of the worked solutions' random choices.
        habits: keyword arguments of `task.worked_solution`, e.g. `{"guess_rate": 0.1}`.
        held_out: examples that are not trained on, for a `val_loss` after each epoch.
        restore: gives the compiled model what was saved, and returns after how many epochs that was, as
            `CheckpointCallback.restore` does; the callback is then one of `callbacks`.
        callbacks: Keras callbacks; an epoch is a fiftieth of the steps.
        verbose: as in `fit`; 2 prints a line an epoch.

    Returns:
        The `History` of `fit`, with the `loss` of a token in nats, the mean over batches.

    Raises:
        ValueError: if the vocabulary lacks the `stop_token`, or there are no examples.
        NotImplementedError, TypeError: if the task has no worked solutions, or not with these habits.
    """
    if isinstance(examples, Task):
        read = solutions(examples, policy.preprocessor.tokenizer, stop_token, seed, habits or {})
        read([0])  # an error here is one, in `fit` a page
    else:
        _check_any(examples, "examples")
        read = shuffled(examples, seed)
    model = _Imitator(policy)
    schedule = _schedule(learning_rate, steps)
    model.compile(keras.optimizers.Adam(schedule, beta_2=0.99, global_clipnorm=1.0), loss=_cross_entropy)
    model.optimizer.build(model.trainable_variables)
    steps_per_epoch = max(1, steps // 50)
    settings = dict(epochs=steps // steps_per_epoch, steps_per_epoch=steps_per_epoch, callbacks=callbacks)
    settings |= dict(initial_epoch=restore(model) if restore else 0, verbose=verbose)
    if held_out is not None:
        _check_any(held_out, "held_out")
        held_out = by_length(held_out, batch_size)
        settings["validation_data"] = _dataset(lambda: map(padded, held_out), len(held_out))
    first = settings["initial_epoch"] * steps_per_epoch
    batches = _dataset(lambda: endless_batches(read, batch_size, seed, first))
    history = model.fit(batches, shuffle=False, **settings)  # the batches are shuffled already
    lora.merge(policy)
    return history


def _check_any(examples, name: str) -> None:
    if not len(examples):
        raise ValueError(f"`{name}` must hold one example or more. Received: none")


def _dataset(batches: Callable, count: int = tf.data.INFINITE_CARDINALITY) -> tf.data.Dataset:
    specs = {name: tf.TensorSpec((None, None), "int32") for name in _INPUTS}, tf.TensorSpec((None, None), "float32")
    dataset = tf.data.Dataset.from_generator(batches, output_signature=specs)
    return dataset.apply(tf.data.experimental.assert_cardinality(count))


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
