"""`conditions`: what a number was measured with, for whoever reads it without its run."""

import inspect
import os

from keras_aha.recipes.recipe import Recipe
from keras_aha.runs.build_task import find_task
from keras_aha.runs.machine import devices_in_words


def conditions(recipe: Recipe, name: str | os.PathLike) -> dict:
    """What decides a held-out accuracy beside the weights, ready for JSON: recipe, preset, task, limits, devices.

    `name` is what the user calls the recipe. The template is `None` if the task has no such argument.
    """
    task, rollouts, held_out = recipe.task, recipe.rollouts, recipe.evaluation
    template = inspect.signature(find_task(task.name)).parameters.get("template")
    arguments = ", ".join(f"{key}={value!r}" for key, value in task.arguments.items() if key != "template")
    return {
        "recipe": os.fspath(name),
        "preset": recipe.model.preset,
        "task": f"{task.name}({arguments})",
        "template": template and task.arguments.get("template", template.default),
        "max_prompt_length": rollouts.max_prompt_length,
        "max_completion_length": rollouts.max_completion_length,
        "temperature": 1.0,  # of all evaluations
        "puzzles": held_out.puzzles,
        "samples": held_out.samples,
        "devices": devices_in_words(),
    }


def in_words(conditions: dict) -> str:
    """The same in a line."""
    return (
        "{preset} by the recipe {recipe}: task {task}, template {template!r}, {puzzles} puzzles × {samples} "
        "completions of at most {max_completion_length} tokens at temperature {temperature:g}, on {devices}".format(
            **conditions
        )
    )
