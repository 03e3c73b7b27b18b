"""`GRPOModel.train_step` as `fit` compiles it, of shapes alone."""

from keras_aha.grpo_model import GRPOModel
from keras_aha.planner.layouts import Layouts
from keras_aha.rollout import empty_batch

import jax


def train_arguments(model: GRPOModel, layouts: Layouts, rows: int, prompt_length: int, completion_length: int):
    """What `train_step` takes, `(state, batch)`: shapes with shardings."""
    state = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    batch = empty_batch(rows, prompt_length, completion_length)
    return jax.tree.map(layouts.variable, state), jax.tree.map(layouts.batch, batch)


def lower_train_step(model: GRPOModel, state, batch) -> jax.stages.Lowered:
    """The step, its state donated and kept where it is, as Keras's trainer does."""
    shardings = None, jax.tree.map(lambda x: x.sharding, state)
    return jax.jit(model.train_step, donate_argnums=0, out_shardings=shardings).lower(state, batch)
