"""The teacher of `[teacher]`, and the loss in which it counts."""

import dataclasses
from collections.abc import Callable

from keras_aha.losses import GRPOLoss
from keras_aha.models.policy import abstract_policy
from keras_aha.models.presets import load_tokenizer
from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.values import RecipeError, in_section
from keras_aha.runs.build_policy import policy_arguments
from keras_aha.runs.check_marks import check_text
from keras_aha.runs.other_model import OtherModel, find_other
from keras_aha.training.teacher import Teacher


def build_loss(recipe: Recipe) -> GRPOLoss:
    """The loss of `[loss]`, with the weight of `[teacher]`; RecipeError for a number that it does not take."""
    with in_section("loss"):
        weight = 0.0 if recipe.teacher.preset is None else recipe.teacher.weight
        return GRPOLoss(**dataclasses.asdict(recipe.loss), teacher_coef=weight)


def build_teacher(recipe: Recipe, load: Callable = OtherModel.load) -> Teacher | None:
    """The teacher, whose model `load` makes; `None` if there is none. RecipeError for what cannot be used."""
    section, other = recipe.teacher, None
    if section.preset is None:
        return None
    if section.preset != "self":
        other = find_other(section.preset, "teacher.preset", section.dtype, section.quantization, recipe.model.dtype)
    with in_section("teacher"):
        policy = None if other is None else load(other)
        return Teacher(policy, temperature=section.temperature, kl=section.kl, hint=section.hint)


def check_teacher(recipe: Recipe) -> None:
    """Raises RecipeError, before weights are loaded, for a teacher that cannot be used: its vocabulary is another one,
    or marks in its hint are no tokens."""
    if recipe.teacher.preset is None:
        return
    policy = _with_tokenizer(abstract_policy(**policy_arguments(recipe)), recipe.model.preset)
    teacher = build_teacher(recipe, lambda other: _with_tokenizer(other.abstract(), other.preset))
    if recipe.teacher.hint is not None:
        check_text(policy.preprocessor.tokenizer, recipe.teacher.hint, "teacher.hint", None)
    try:
        teacher.check_vocabulary(policy)
    except ValueError as error:
        names = f"teacher.preset={recipe.teacher.preset!r}, model.preset={recipe.model.preset!r}"
        raise RecipeError(f"[teacher]: {error}, {names}") from error


def _with_tokenizer(policy, preset: str):
    policy.preprocessor = type(policy).preprocessor_cls(load_tokenizer(preset))
    return policy
