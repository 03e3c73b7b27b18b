"""The rewards of a recipe beside the task's own."""

from collections.abc import Callable

from keras_aha.names import import_function
from keras_aha.recipes.recipe import Recipe


def build_rewards(recipe: Recipe) -> dict[str, tuple[Callable, float]]:
    """What `[[rewards]]` name, as `RolloutCallback` takes it; ValueError for a function that there is not."""
    tables = {f"rewards[{i}].function": reward for i, reward in enumerate(recipe.rewards)}
    return {reward.name: (import_function(reward.function, key), reward.weight) for key, reward in tables.items()}
