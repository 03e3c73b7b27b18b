"""`Trial`: a rollout and an update of a recipe's shapes, run twice on the devices here, and timed."""

import dataclasses
import functools
import time
from typing import Any, NamedTuple

from keras_aha.distribution.distribute import global_rows
from keras_aha.files import presets_folder
from keras_aha.losses import GRPOLoss
from keras_aha.models.abstract_backbone import abstract_backbone, known_presets
from keras_aha.models.internals import set_value
from keras_aha.models.policy import random_policy
from keras_aha.planner.layouts import bytes_on_a_device
from keras_aha.planner.rollout_shapes import planned_decoder
from keras_aha.recipes.recipe import Recipe
from keras_aha.runs.build_optimizer import build_optimizer
from keras_aha.runs.build_policy import build_policy, policy_arguments
from keras_aha.runs.experiment import distribute_as
from keras_aha.training.grpo_model import GRPOModel
from keras_aha.training.micro_batches import by_length
from keras_aha.training.rollout import PROMPT_MULTIPLE, empty_batch

import jax
import jax.numpy as jnp
import numpy as np

_FIRST_TEXT = 100  # the token ids below it are marks, in every vocabulary that there is


class Timed(NamedTuple):
    """What a later call gave and took, and by how much the first call took longer."""

    value: Any
    compile_seconds: float
    seconds: float


class Trial:
    """A policy under the recipe's distribution, which is set from here on, and what it does with random prompts.

    Attributes:
        recipe: what was passed. Weights are random if the architecture of its preset is known.
    """

    def __init__(self, recipe: Recipe):
        self.recipe, limits = recipe, recipe.rollouts
        if self.is_random:
            planned_decoder(abstract_backbone(recipe.model.preset, recipe.model.dtype))
        self.group_size, self.completion_length = limits.group_size, limits.max_completion_length
        rng = np.random.default_rng(0)
        length = -(-limits.max_prompt_length // PROMPT_MULTIPLE) * PROMPT_MULTIPLE
        starts = rng.integers(0, length // 2, limits.prompts_per_epoch)
        self.prompt_mask = (np.arange(length) >= starts[:, None]).astype("int32")
        self.random_ids = rng.random((limits.prompts_per_epoch, length))

    @property
    def is_random(self) -> bool:
        """Whether the architecture is known by name, so that no weights are read."""
        return self.recipe.model.preset in known_presets()

    @property
    def name(self) -> str:
        """Of the model: nobody's folder is named."""
        preset, shipped = self.recipe.model.preset, {path.name for path in presets_folder().iterdir()}
        return preset if self.is_random or preset in shipped else "your model"

    @property
    def shapes(self) -> dict[str, str | int]:
        """What the numbers were measured with."""
        rows, size = len(self.prompt_mask) * self.group_size, self.recipe.training.micro_batch_size
        shapes = dict(model=self.name, weights="random" if self.is_random else "real", dtype=self.recipe.model.dtype)
        shapes |= dict(rows=rows, micro_batch=size or rows, prompt_length=self.prompt_mask.shape[1])
        return shapes | dict(completion_length=self.completion_length)

    @functools.cached_property
    def model(self) -> GRPOModel:
        """Compiled, with one length of completions, as the planner counts."""
        recipe = self.recipe
        distribute_as(recipe)
        optimizer = build_optimizer(recipe.optimizer, recipe.training.epochs * recipe.rollouts.updates_per_rollout)
        policy = random_policy(**policy_arguments(recipe)) if self.is_random else build_policy(recipe)
        model = GRPOModel(policy, recipe.training.micro_batch_size, completion_lengths=1)
        model.compile(optimizer, GRPOLoss(**dataclasses.asdict(recipe.loss)))
        return model

    @functools.cached_property
    def prompt_ids(self) -> np.ndarray:
        """Random texts, `(P, L)`, left-padded."""
        first, last = _FIRST_TEXT, self.model.policy.backbone.vocabulary_size
        return (self.prompt_mask * (first + self.random_ids * (last - first))).astype("int32")

    @property
    def _prompts_of_rows(self) -> list[np.ndarray]:
        return [x.repeat(self.group_size, axis=0) for x in (self.prompt_ids, self.prompt_mask)]

    @functools.cached_property
    def sampled(self) -> Timed:
        """`Completions`; no stop token but the tokenizer's end token."""
        limits = dict(group_size=self.group_size, max_completion_length=self.completion_length)
        limits |= dict(max_rows=self.recipe.rollouts.max_rows, stop_tokens=(), on_segment=self._on_segment)
        return _timed(lambda: self._generate(**limits))

    @property
    def step_seconds(self) -> float:
        """Of a decode step: the mean of the last segment's, in which the cache is nearly full."""
        rows = len(self.sampled.value.lengths)
        (before, fewer), (after, tokens) = self._segments[-2:]
        return (after - before) * rows / (tokens - fewer)

    def _generate(self, **limits):
        self._segments = [(time.perf_counter(), 0)]
        return self.model.generate(self.prompt_ids, self.prompt_mask, **limits)

    def _on_segment(self, rows: int, tokens: int) -> None:
        self._segments.append((time.perf_counter(), tokens))

    @functools.cached_property
    def batch(self) -> dict[str, np.ndarray]:
        """`Rollout.batch()` of what was sampled, ordered as for `fit`; each second completion is better than others."""
        completions, size = self.sampled.value, self.group_size
        rows, length = completions.token_ids.shape
        batch = empty_batch(rows, self.prompt_ids.shape[1], length)
        batch["prompt_ids"], batch["prompt_mask"] = (
            x.repeat(size, axis=0) for x in (self.prompt_ids, self.prompt_mask)
        )
        batch["completion_ids"] = completions.token_ids
        batch["completion_mask"] = (np.arange(length) < completions.lengths[:, None]).astype("float32")
        batch["old_log_probs"] = batch["sampler_log_probs"] = completions.log_probs
        batch["advantages"] = np.where(np.arange(rows) % 2, 1.0, -1.0).astype("float32")
        batch["has_signal"] = batch["temperature"] = np.ones(rows, "float32")
        shared = self.model.rows_per_prompt(rows, size, self.prompt_ids.shape[1], length)
        return by_length(batch, self.model.micro_batch_size, shared, size)

    @functools.cached_property
    def log_probs(self) -> Timed:
        """The trainer's, `(B, C)`, of the completions in the order in which they were sampled."""
        completions = self.sampled.value
        mask = np.arange(completions.token_ids.shape[1]) < completions.lengths[:, None]
        own = completions.token_ids, mask
        texts = [np.hstack(pair) for pair in zip(self._prompts_of_rows, own, strict=True)]
        return _timed(lambda: self.model.log_probs(*texts, mask.shape[1]))

    @functools.cached_property
    def updated(self) -> Timed:
        """The logs of the optimizer step, compiled as Keras does, and run twice."""
        model, start = self.model, time.perf_counter()
        variables = model.trainable_variables, model.non_trainable_variables, model.optimizer.variables
        variables = *variables, model.metrics_variables
        state = tuple([variable.value for variable in some] for some in variables)
        batch = jax.tree.map(jnp.asarray, global_rows(self.batch))
        # As the planner lowers it, so that each can take the other's program from JAX's cache.
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), (state, batch))
        shardings = None, jax.tree.map(lambda x: x.sharding, state)
        compiled = jax.jit(model.train_step, donate_argnums=0, out_shardings=shardings).lower(*shapes).compile()
        compile_seconds, held = time.perf_counter() - start, bytes_on_a_device(shapes)
        for _ in range(2):
            start = time.perf_counter()
            logs, state = jax.block_until_ready(compiled(state, batch))
            seconds = time.perf_counter() - start
        for variable, value in zip(sum(map(list, variables), []), sum(map(list, state), []), strict=True):
            set_value(variable, value)
        return Timed((logs, held, compiled.memory_analysis()), compile_seconds, seconds)


def _timed(call) -> Timed:
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        value = jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return Timed(value, max(0.0, seconds[0] - seconds[1]), seconds[1])
