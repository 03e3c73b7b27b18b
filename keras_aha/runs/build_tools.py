"""The tools that a recipe names."""

import functools
import inspect
from collections.abc import Callable

from keras_aha.names import import_name, suggestion
from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.values import RecipeError, in_section
from keras_aha.runs.from_keys import make_from_keys
from keras_aha.tasks import Task
from keras_aha.tasks.tools.attempt_checker import AttemptChecker
from keras_aha.tasks.tools.calculator import Calculator
from keras_aha.tasks.tools.function_tool import FunctionTool
from keras_aha.tasks.tools.python_code import PythonCode
from keras_aha.tasks.tools.search import Search
from keras_aha.tasks.tools.tool import Tool
from keras_aha.tasks.tools.with_tools import WithTools
from keras_aha.training.ask import ask_problem

TOOLS = dict(
    attempts=AttemptChecker,
    calculator=Calculator,
    python=PythonCode,
    search=Search,
)


def add_tools(recipe: Recipe, tasks: list[Task]) -> list[Task]:
    """Tasks with the tools of `[[tools]]`, called as `[turns]` says; the tasks themselves if there are none.

    It raises RecipeError for a tool that cannot be made, or that does not fit a task.
    """
    if not recipe.tools:
        return tasks
    tools = [
        make_from_keys(_find(table.name, f"tools[{i}]"), table, f"tools[{i}]", table.name)
        for i, table in enumerate(recipe.tools)
    ]
    for task in tasks:
        ask_problem(task, 0)  # whose errors name the task
    turns = recipe.turns
    settings = dict(form=turns.tool_form, max_turns=turns.max_turns, declare=turns.declare)
    with in_section("tools"):
        return [WithTools(task, tools, **settings) for task in tasks]


def _find(name: str, path: str) -> Callable[..., Tool]:
    """The class, or another maker, of a tool; RecipeError if there is none of that name."""
    if ":" in name:
        with in_section(path):
            own = import_name(name, f"{path}.name")
        return own if inspect.isclass(own) else functools.partial(FunctionTool, own)
    if name not in TOOLS:
        raise RecipeError(
            f"No tool is called {name!r}{suggestion(name, TOOLS)}; there is {', '.join(TOOLS)}, and your own as "
            f"module:function. Received: {path}.name={name!r}"
        )
    return TOOLS[name]
