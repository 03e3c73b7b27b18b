"""The model that a run would train, built of shapes alone."""

import contextlib
import dataclasses

from keras_aha.distribution.distribute import distribute
from keras_aha.models.internals import initialize_layout, without_values
from keras_aha.models.policy import abstract_policy
from keras_aha.planner.layouts import Layouts
from keras_aha.planner.rollout_shapes import planned_decoder
from keras_aha.planner.topology import Topology
from keras_aha.recipes.recipe import Recipe
from keras_aha.runs.build_optimizer import build_optimizer
from keras_aha.runs.build_policy import check_base, in_section, policy_arguments
from keras_aha.runs.build_rewards import judges_here
from keras_aha.runs.build_teacher import build_loss, build_teacher
from keras_aha.runs.other_model import OtherModel
from keras_aha.training.grpo_model import GRPOModel

import jax
import keras


@contextlib.contextmanager
def abstract_model(recipe: Recipe, topology: Topology):
    """A compiled `GRPOModel` without values, judges by the numbers of their tables in the recipe, and the layouts of
    variables, under the recipe's distribution."""
    check_base(recipe)
    steps = recipe.training.epochs * recipe.rollouts.updates_per_rollout
    before = keras.distribution.distribution()
    try:
        # The optimizer has real numbers, so it is made before a mesh of devices that hold none.
        keras.distribution.set_distribution(None)
        optimizer = build_optimizer(recipe.optimizer, steps)
        model = recipe.model
        distribute(
            **dataclasses.asdict(recipe.distribution), preset=model.preset, dtype=model.dtype, devices=topology.devices
        )
        with in_section("model"):
            policy = abstract_policy(**policy_arguments(recipe))
        planned_decoder(policy.backbone)  # its error comes before minutes of compiling
        teacher = build_teacher(recipe, OtherModel.abstract)
        for variable in [*policy.variables, *(teacher.variables if teacher else ())]:
            initialize_layout(variable)  # as Keras does when it gives a variable its value; the optimizer's follow it
        with without_values():
            # The step is compiled once here: of all lengths the longest takes the most.
            model = GRPOModel(policy, recipe.training.micro_batch_size, completion_lengths=1, teacher=teacher)
            # Traced, so that a reference copy takes no memory.
            jax.eval_shape(lambda: model.compile(optimizer, build_loss(recipe)))
        judges = {i: other.abstract() for i, other in judges_here(recipe).items()}
        yield model, judges, Layouts(topology.devices)
    finally:
        keras.distribution.set_distribution(before)
