"""`Compiler`: the programs of a run, compiled."""

import concurrent.futures
import weakref
from collections.abc import Callable

from keras_aha.decoding import Sampling, jitted_steps
from keras_aha.decoding.jitted_steps import Settings
from keras_aha.planner.judging import JudgeShapes
from keras_aha.planner.layouts import bytes_on_a_device
from keras_aha.planner.program import Program, compile_program, measure
from keras_aha.planner.rollout_shapes import RolloutShapes
from keras_aha.recipes.recipe import Recipe

import jax
import numpy as np


class Compiler:
    """Compiles the very functions that `fit` runs, for the devices that their arguments lie on.

    `on_program` is called with the name of each program before it is compiled.
    """

    def __init__(self, recipe: Recipe, on_program: Callable[[str], None]):
        self.rollouts, self.on_program = recipe.rollouts, on_program
        self.thread = concurrent.futures.ThreadPoolExecutor(1)

    def train_step(self, model, state, batch) -> Callable[[], Program]:
        """Begins with `GRPOModel.train_step`, its state donated as Keras does; returns a function that waits for it."""
        self.on_program("train step")
        shardings = None, jax.tree.map(lambda x: x.sharding, state)
        lowered = jax.jit(model.train_step, donate_argnums=0, out_shardings=shardings).lower(state, batch)
        rows = batch["advantages"].shape[0]
        turns = rows // (model.micro_batch_size or rows)
        compiling = self.thread.submit(compile_program, lowered, bytes_on_a_device((state, batch)))

        def wait() -> Program:
            self.on_program("train step, which takes the longest")
            return measure(compiling.result(), turns)

        return wait

    def prefill(self, shapes: RolloutShapes) -> Program:
        """`decoding.jitted_steps.prefill`."""
        self.on_program("prefill")
        arguments = weakref.ref(shapes.decoder), shapes.weights, *shapes.prompts, np.int32(0)
        lowered = jitted_steps.prefill.lower(*arguments, dtype=shapes.cache_dtype)
        return measure(compile_program(lowered, bytes_on_a_device((shapes.weights, shapes.prompts))))

    def judge(self, shapes: JudgeShapes) -> Program:
        """What a judge reads at a time."""
        self.on_program("judge")
        arguments = shapes.weights, shapes.token_ids, shapes.lengths
        return measure(compile_program(jax.jit(shapes.read).lower(*arguments), bytes_on_a_device(arguments)))

    def segment(self, shapes: RolloutShapes) -> Program:
        """`decoding.jitted_steps.segment`, its bytes those of one step."""
        self.on_program("decode steps")
        rollouts = self.rollouts
        sampling = Sampling(rollouts.top_k, rollouts.top_p, rollouts.min_p)
        stop_states = 2 + sum(len(text.encode()) for text in rollouts.stop_strings)
        table = np.zeros((stop_states, shapes.decoder.backbone.vocabulary_size), "int8")
        settings = Settings(table, 1.0, shapes.cache_length, until=0, floor=0)
        arguments = shapes.weights, shapes.state, shapes.rows, shapes.prompt
        decoder = weakref.ref(shapes.decoder)
        lowered = jitted_steps.segment.lower(decoder, sampling, *arguments, settings, parts=shapes.parts)
        return measure(compile_program(lowered, bytes_on_a_device(shapes.arrays)), one_turn=True)
