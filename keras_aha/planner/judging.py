"""What judging takes: shapes of a judge's program, and how many texts it reads."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from keras_aha.decoding.placement import Placement
from keras_aha.models.head import float32_logits
from keras_aha.planner.layouts import Layouts
from keras_aha.planner.rollout_shapes import adapted_dtypes
from keras_aha.recipes.feedback import Reward
from keras_aha.recipes.values import RecipeError
from keras_aha.runs.build_rewards import judge_class
from keras_aha.runs.from_keys import known_arguments
from keras_aha.training.judges.local_judge import read_texts

import numpy as np


class JudgeShapes(NamedTuple):
    """A judge as shapes with shardings: `read(weights, token_ids, lengths)` is its program, and for each completion it
    reads so many `texts`."""

    backbone: object
    read: Callable
    weights: list
    token_ids: object
    lengths: object
    texts: int


def judge_shapes(reward: Reward, model, layouts: Layouts) -> JudgeShapes:
    """The shapes of a judge whose abstract `model` is of the recipe's table `reward`."""
    known = known_arguments(judge_class(reward.judge))
    sizes = {
        name: reward.arguments.get(name, known[name].default) for name in ("batch_size", "max_length", "opponents")
    }
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise RecipeError(f"`{name}` of a judge must be an integer of 1 or more. Received: {name}={size!r}")
    backbone, dtypes = model.backbone, adapted_dtypes(model.backbone)
    weights = [layouts.rollout(variable, dtypes.get(id(variable))) for variable in backbone.variables]
    placement = Placement(weights)
    rows = -(-sizes["batch_size"] // placement.parts) * placement.parts
    zeros = np.zeros((rows, sizes["max_length"]), "int32"), np.zeros(rows, "int32")
    token_ids, lengths = (layouts.on_mesh(placement.mesh, x, "batch") for x in zeros)
    read = functools.partial(read_texts, backbone, functools.partial(float32_logits, backbone.token_embedding))
    texts = 2 * sizes["opponents"] if "{other}" in str(reward.arguments.get("rubric")) else 1
    return JudgeShapes(backbone, read, weights, token_ids, lengths, texts)
