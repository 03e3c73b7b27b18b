"""`search`: the largest micro-batch and the most rows decoded at a time that fit."""

from collections.abc import Callable

from keras_aha.distribution.distribute import batch_parts
from keras_aha.models.internals import as_if_on
from keras_aha.planner.abstract_model import abstract_model
from keras_aha.planner.planning import Planning
from keras_aha.planner.topology import find_topology
from keras_aha.recipes.recipe import Recipe


def search(recipe: Recipe, topology: str, *, on_program: Callable[[str], None] = lambda name: None) -> Recipe:
    """The recipe with the largest `training.micro_batch_size` and `rollouts.max_rows` that fit on a topology.

    Programs are compiled again and again, each about as often as its choices can be halved. If not even the smallest
    numbers fit, the recipe has those. Arguments and errors are those of `plan`.
    """
    places = find_topology(topology)
    group_size = recipe.rollouts.group_size
    rows = recipe.rollouts.prompts_per_epoch * group_size
    with abstract_model(recipe, places) as made, as_if_on(places.devices, places.platform):

        def planning(change: str) -> Planning:
            changed = recipe.override(change)
            made[0].micro_batch_size = changed.training.micro_batch_size
            return Planning(changed, places, made, lambda name: on_program(f"{name}, {change}"))

        def fits(plan_and_phases: tuple) -> bool:
            return all(sum(parts.values()) <= places.memory for parts in plan_and_phases[1].values())

        def fits_training(size: int) -> bool:
            step = planning(f"training.micro_batch_size={size}")
            return fits(step.train(step.begin_train()))

        def fits_decoding(count: int) -> bool:
            return fits(planning(f"rollouts.max_rows={count}").decode())

        parts = batch_parts()
        size = _largest([n for n in range(parts, rows + 1, parts) if rows % n == 0], fits_training)
        counts = [n for n in range(group_size, rows + 1, group_size) if n % parts == 0 or n == rows]
        count = _largest(counts, fits_decoding)
    return recipe.override([f"training.micro_batch_size={size}", f"rollouts.max_rows={count}"])


def _largest(choices: list[int], fits: Callable[[int], bool]) -> int:
    """The largest of ascending choices that fits, the smallest if none does."""
    low, high = 0, len(choices)  # what is below `low` fits, and what is from `high` on does not
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if fits(choices[middle]) else (low, middle)
    return choices[max(0, low - 1)]
