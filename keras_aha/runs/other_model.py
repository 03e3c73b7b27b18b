"""`OtherModel`: a model beside the policy, which is not trained: a judge, a teacher."""

from pathlib import Path
from typing import NamedTuple

from keras_aha.models.policy import abstract_frozen, abstract_policy, check_frozen, load_frozen
from keras_aha.models.presets import find_preset
from keras_aha.recipes.recipe import RECIPE, Recipe
from keras_aha.recipes.values import RecipeError, in_section
from keras_aha.runs.build_policy import policy_arguments
from keras_aha.runs.saved_policy import find_epoch
from keras_aha.runs.trained_policy import is_run, load_trained

import keras_hub


class OtherModel(NamedTuple):
    """The preset at a `place`, `weights` as `load_frozen` takes them; or the last policy of a run, its recipe `run`."""

    place: str
    weights: dict
    run: Recipe | None = None

    @property
    def preset(self) -> str:
        """Whose vocabulary it has."""
        return self.run.model.preset if self.run else self.place

    def load(self) -> keras_hub.models.CausalLM:
        """Loads it, frozen; ValueError for what `load_policy` and `load_trained` raise."""
        policy = load_trained(self.run, self.place) if self.run else load_frozen(self.place, **self.weights)
        policy.trainable = False
        return policy

    def abstract(self) -> keras_hub.models.CausalLM:
        """The same in no memory, see `abstract_policy`."""
        arguments = policy_arguments(self.run) if self.run else self.weights
        policy = abstract_policy(**arguments) if self.run else abstract_frozen(self.place, **arguments)
        policy.trainable = False
        return policy


def find_other(place: str, key: str, dtype: str | None, quantization: str | None, policy_dtype: str) -> OtherModel:
    """What a recipe names by `key`, such as `teacher.preset`: a preset, in the policy's dtype if it has none, or the
    folder of a run, which has its own. No weights are read; RecipeError for what cannot be loaded so."""
    path, _, _ = key.rpartition(".")
    with in_section(path):
        if not is_run(place):
            find_preset(place, key)
            weights = dict(dtype=dtype or policy_dtype, quantization=quantization)
            check_frozen(place, **weights)
            return OtherModel(place, weights)
        if dtype or quantization:
            raise RecipeError(
                f"A run's weights are as it trained them: leave {path}.dtype and {path}.quantization out. "
                f"Received: {place!r}, dtype={dtype!r}, quantization={quantization!r}"
            )
        run = Recipe.load(Path(place).expanduser() / RECIPE)
        find_epoch(place)
        return OtherModel(place, dict(dtype=run.model.dtype), run)
