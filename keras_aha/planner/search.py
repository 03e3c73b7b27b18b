"""`search`: the largest micro-batch and the most rows decoded at a time that fit."""

from collections.abc import Callable

from keras_aha.distribution.distribute import batch_parts
from keras_aha.models.internals import as_if_on
from keras_aha.planner.planning import Planning, abstract_model, rows_of
from keras_aha.planner.topology import find_topology
from keras_aha.recipes.recipe import Recipe


def search(recipe: Recipe, topology: str, *, on_program: Callable[[str], None] | None = None) -> Recipe:
    """The recipe with the largest `training.micro_batch_size` and `rollouts.max_rows` that fit on a topology.

    Programs are compiled again and again, each about as often as its choices can be halved.

    Args:
        recipe, topology, on_program: see `plan`.

    Returns:
        The recipe, changed; where not even the smallest number fits, with that one.

    Raises:
        RecipeError, ValueError, ImportError: see `plan`.
    """
    places = find_topology(topology)
    rows, group_size = rows_of(recipe), recipe.rollouts.group_size
    tell = on_program or (lambda name: None)
    with abstract_model(recipe, places) as (model, layouts), as_if_on(places.devices, places.platform):
        parts = batch_parts()

        def fits(phases: dict) -> bool:
            return all(sum(phase.values()) <= places.memory for phase in phases.values())

        def planning(change: str):
            changed = recipe.override(change)
            model.micro_batch_size = changed.training.micro_batch_size
            return Planning(changed, places, model, layouts, lambda name: tell(f"{name}, {change}"))

        def fits_training(size: int) -> bool:
            step = planning(f"training.micro_batch_size={size}")
            return fits(step.train(step.begin_train())[1])

        sizes = [size for size in range(parts, rows + 1, parts) if rows % size == 0]
        size = _largest(sizes, fits_training)
        counts = [count for count in range(group_size, rows + 1, group_size) if count % parts == 0 or count == rows]
        count = _largest(counts, lambda count: fits(planning(f"rollouts.max_rows={count}").decode()[1]))
    return recipe.override([f"training.micro_batch_size={size}", f"rollouts.max_rows={count}"])


def _largest(choices: list[int], fits: Callable[[int], bool]) -> int:
    """The largest of ascending choices that fits, the smallest if none does."""
    low, high = 0, len(choices)  # what is below `low` fits, and what is from `high` on does not
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if fits(choices[middle]) else (low, middle)
    return choices[max(0, low - 1)]
