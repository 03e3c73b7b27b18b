"""What judging takes: shapes of a judge's program, and how many texts it reads."""

import dataclasses
import functools
from collections.abc import Callable

from keras_aha.decoding.placement import Placement
from keras_aha.models.head import float32_logits
from keras_aha.planner.layouts import Layouts
from keras_aha.planner.rollout_shapes import adapted_dtypes
from keras_aha.recipes.feedback import Reward
from keras_aha.runs.build_rewards import judge_class
from keras_aha.runs.from_keys import known_arguments
from keras_aha.training.judges.local_judge import read_texts

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeShapes:
    """A judge of a recipe, as shapes with shardings.

    Attributes:
        backbone: its own.
        weights: values of its variables, as they lie in judging.
        token_ids, lengths: of the texts that it reads at a time.
        texts: that it reads for each completion.
        read: a function of `(weights, token_ids, lengths)`, the program that it runs.
    """

    backbone: object
    weights: list
    token_ids: object
    lengths: object
    texts: int
    read: Callable

    @property
    def dtype(self) -> str:
        """Of its products."""
        return self.backbone.token_embedding.compute_dtype


def judge_shapes(reward: Reward, model, layouts: Layouts) -> JudgeShapes:
    """The shapes of a judge whose abstract `model` is of the recipe's table `reward`."""
    backbone, dtypes = model.backbone, adapted_dtypes(model.backbone)
    weights = [layouts.rollout(variable, dtypes.get(id(variable))) for variable in backbone.variables]
    placement = Placement(weights)
    size = -(-_argument(reward, "batch_size") // placement.parts) * placement.parts
    zeros = np.zeros((size, _argument(reward, "max_length")), "int32"), np.zeros(size, "int32")
    token_ids, lengths = (layouts.on_mesh(placement.mesh, x, "batch") for x in zeros)
    compares = "{other}" in str(reward.arguments.get("rubric", ""))
    logits = functools.partial(float32_logits, backbone.token_embedding)
    return JudgeShapes(
        backbone=backbone,
        weights=weights,
        token_ids=token_ids,
        lengths=lengths,
        texts=2 * _argument(reward, "opponents") if compares else 1,
        read=functools.partial(read_texts, backbone, logits),
    )


def _argument(reward: Reward, name: str) -> int:
    """What the recipe says, or the judge's default."""
    return reward.arguments.get(name, known_arguments(judge_class(reward.judge))[name].default)
