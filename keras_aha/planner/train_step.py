"""What `GRPOModel.train_step` takes, of shapes alone."""

from keras_aha.planner.layouts import Layouts
from keras_aha.training.grpo_model import GRPOModel
from keras_aha.training.rollout import empty_batch

import jax


def train_arguments(model: GRPOModel, layouts: Layouts, rows: int, prompt_length: int, completion_length: int):
    """`(state, batch)`, as shapes with shardings; see `train_step`."""
    state = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    batch = empty_batch(rows, prompt_length, completion_length)
    return jax.tree.map(layouts.variable, state), jax.tree.map(layouts.batch, batch)
