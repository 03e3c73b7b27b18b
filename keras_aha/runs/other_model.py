"""`OtherModel`: a model beside the policy, which is not trained: a judge, a teacher."""

import dataclasses
from pathlib import Path

from keras_aha.models.policy import abstract_frozen, abstract_policy, check_frozen, load_frozen
from keras_aha.models.presets import find_preset
from keras_aha.recipes.recipe import RECIPE, Recipe
from keras_aha.recipes.values import RecipeError, in_section
from keras_aha.runs.build_policy import policy_arguments
from keras_aha.runs.saved_policy import find_epoch
from keras_aha.runs.trained_policy import is_run, load_trained

import keras_hub


@dataclasses.dataclass(frozen=True)
class OtherModel:
    """A preset as it is, or the last policy of a run.

    Attributes:
        place: the preset, or the run's folder.
        preset: whose vocabulary it has.
        dtype, quantization: of its weights.
        run: the run's recipe; `None` if it is a preset.
    """

    place: str
    preset: str
    dtype: str
    quantization: str | None
    run: Recipe | None = None

    def load(self) -> keras_hub.models.CausalLM:
        """Loads it, frozen; ValueError for what `load_policy` and `load_trained` raise."""
        if self.run is None:
            return load_frozen(self.preset, dtype=self.dtype, quantization=self.quantization)
        policy = load_trained(self.run, self.place)
        policy.trainable = False
        return policy

    def abstract(self) -> keras_hub.models.CausalLM:
        """The same in no memory, see `abstract_policy`."""
        if self.run is None:
            return abstract_frozen(self.preset, dtype=self.dtype, quantization=self.quantization)
        policy = abstract_policy(**policy_arguments(self.run))
        policy.trainable = False
        return policy


def find_other(place: str, key: str, dtype: str | None, quantization: str | None, policy_dtype: str) -> OtherModel:
    """What a recipe names by `key`, such as `teacher.preset`; no weights are read.

    Args:
        place: a preset, or a run's folder.
        key: see above.
        dtype, quantization: of its weights, as the section says; of a run they are its own.
        policy_dtype: what `None` is of a preset.

    Raises:
        RecipeError: for a preset that there is not or that cannot be loaded so, a run without a policy, and a run's
            weights in another dtype.
    """
    path, _, _ = key.rpartition(".")
    with in_section(path):
        if not is_run(place):
            find_preset(place, key)
            dtype = dtype or policy_dtype
            check_frozen(place, dtype=dtype, quantization=quantization)
            return OtherModel(place, place, dtype, quantization)
        if dtype or quantization:
            raise RecipeError(
                f"A run's weights are as it trained them: leave {path}.dtype and {path}.quantization out. "
                f"Received: {place!r}, dtype={dtype!r}, quantization={quantization!r}"
            )
        run = Recipe.load(Path(place).expanduser() / RECIPE)
        find_epoch(place)
        return OtherModel(place, run.model.preset, run.model.dtype, None, run)
