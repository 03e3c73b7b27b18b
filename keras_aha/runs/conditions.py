"""`conditions`: what a number was measured with, for whoever reads it without its run."""

import inspect
import os

from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.sections import TaskSection
from keras_aha.runs.build_task import find_task
from keras_aha.runs.machine import devices_in_words


def conditions(recipe: Recipe, name: str | os.PathLike) -> dict:
    """What decides a held-out accuracy beside the weights, ready for JSON: recipe, preset, task, limits, devices.

    `name` is what the user calls the recipe. The template is `None` if the task has no such argument, or several tasks
    have different ones.
    """
    rollouts, held_out = recipe.rollouts, recipe.evaluation
    tasks, templates = zip(*map(_task_in_words, recipe.asked.values()), strict=True)
    if recipe.tasks:
        tasks = [f"{table.weight:g} {text}" for table, text in zip(recipe.tasks, tasks, strict=True)]
    return {
        "recipe": os.fspath(name),
        "preset": recipe.model.preset,
        "task": " with ".join(filter(None, [" + ".join(tasks), ", ".join(tool.name for tool in recipe.tools)])),
        "template": templates[0] if len(set(templates)) == 1 else None,
        "max_prompt_length": rollouts.max_prompt_length,
        "max_completion_length": rollouts.max_completion_length,
        "temperature": 1.0,  # of all evaluations
        "puzzles": held_out.puzzles,
        "samples": held_out.samples,
        "devices": devices_in_words(),
    }


def _task_in_words(task: TaskSection) -> tuple[str, str | None]:
    """Its name with its arguments, and its template."""
    template = inspect.signature(find_task(task.name)).parameters.get("template")
    arguments = ", ".join(f"{key}={value!r}" for key, value in task.arguments.items() if key != "template")
    return f"{task.name}({arguments})", template and task.arguments.get("template", template.default)


def in_words(conditions: dict) -> str:
    """The same in a line."""
    return (
        "{preset} by the recipe {recipe}: task {task}, template {template!r}, {puzzles} puzzles × {samples} "
        "completions of at most {max_completion_length} tokens at temperature {temperature:g}, on {devices}".format(
            **conditions
        )
    )
