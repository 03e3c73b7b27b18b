"""The task that a recipe names, or the mixture of several."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence, Sized

from keras_aha.models.presets import load_tokenizer
from keras_aha.names import import_name, suggestion
from keras_aha.recipes.recipe import Recipe
from keras_aha.recipes.sections import PrimingTask, TaskSection
from keras_aha.recipes.values import RecipeError, in_section
from keras_aha.runs.build_tools import TOOLS, add_tools
from keras_aha.runs.from_keys import make_from_keys
from keras_aha.tasks import Countdown, GymTask, Mixture, Multiplication, NumberGame, Rows, SearchQA, Signs, Task, TwoHop
from keras_aha.training.ask import ask
from keras_aha.training.short_prompts import ShortPrompts

_TASKS = dict(rows=Rows, countdown=Countdown, signs=Signs, multiplication=Multiplication, number_game=NumberGame)
_TASKS |= dict(search_qa=SearchQA, two_hop=TwoHop)
_GYM = "reasoning_gym/"
_FILES = ("puzzles", "file", "held_out_file", "corpus")  # arguments of ours that are paths


def build_task(recipe: Recipe, seed: int = 0) -> Task:
    """The task of `[task]`: one of ours, `reasoning_gym/GENERATOR`, or the user's own as `module:Class`; or a mixture
    of those of `[[tasks]]`. As `rollouts.long_prompts` says, long prompts of those with a list are left out.

    `seed` is the task's, if it takes one, unless the section has one. It raises RecipeError for what cannot be made.
    """
    tasks = _build(recipe, recipe.asked, seed)
    if recipe.rollouts.long_prompts == "skip":
        with in_section("model"):
            tokenizer = load_tokenizer(recipe.model.preset)
        limit = recipe.rollouts.max_prompt_length
        tasks = [task if task.problem_count() is None else ShortPrompts(task, tokenizer, limit) for task in tasks]
    return tasks[0] if recipe.task else _mix(tasks, recipe.tasks, [table.log_name for table in recipe.tasks])


def build_priming_task(recipe: Recipe) -> Mixture:
    """What priming imitates: the tasks of `[[priming.tasks]]`, or else what is asked; RecipeError as above."""
    priming, tables = recipe.priming, recipe.priming.tasks or recipe.tasks
    paths = {f"priming.tasks[{i}]": table for i, table in enumerate(priming.tasks)} or recipe.asked
    tasks = _build(recipe, paths, priming.seed)
    return _mix(tasks, tables) if tables else Mixture(tasks, habits=[priming.habits])


def _mix(tasks: list[Task], tables: Sequence[PrimingTask], names: Sequence[str] = ()) -> Mixture:
    return Mixture(tasks, [table.weight for table in tables], [table.habits for table in tables], names)


def _build(recipe: Recipe, tables: Mapping[str, TaskSection], seed: int) -> list[Task]:
    tasks = [make_from_keys(find_task(x.name, path), x, path, x.name, seed=seed) for path, x in tables.items()]
    return add_tools(recipe, tasks)


def build_held_out(recipe: Recipe) -> Task:
    """The held-out problems of `[evaluation]`, the same for every training seed; RecipeError if there are fewer."""
    task = build_task(recipe)
    with in_section("evaluation.puzzles"):
        if not any(":" in section.name for section in recipe.asked.values()):
            return task.held_out(recipe.evaluation.puzzles)
        return ask(task, "held_out", recipe.evaluation.puzzles, "a task of that length", Sized)


def task_files(recipe: Recipe) -> dict[str, str | tuple[str, ...]]:
    """`task.file`, `tasks[0].file`, `tools[0].corpus`, `priming.file` and the like → the path, or several; nothing of a
    task or tool of the user's, whose arguments may be anything."""
    tables = recipe.asked | {f"priming.tasks[{i}]": table for i, table in enumerate(recipe.priming.tasks)}
    tables |= {f"tools[{i}]": table for i, table in enumerate(recipe.tools)}
    ours = {path: table.arguments for path, table in tables.items() if table.name in _TASKS.keys() | TOOLS.keys()}
    ours["priming"] = {key: getattr(recipe.priming, key) for key in ("file", "held_out_file")}
    given = {f"{path}.{key}": x[key] for path, x in ours.items() for key in _FILES if key in x}
    return {key: path for key, path in given.items() if isinstance(path, str | tuple) and path != "none"}


def find_task(name: str, path: str = "task") -> Callable[..., Task]:
    """The class, or another maker, of a task; RecipeError if there is none of that name."""
    if name.startswith(_GYM):
        return functools.partial(GymTask, name.removeprefix(_GYM))
    if ":" in name:
        with in_section(path):
            return import_name(name, f"{path}.name", "task", _is_task)
    if name not in _TASKS:
        raise RecipeError(
            f"No task is called {name!r}{suggestion(name, _TASKS)}; there is {', '.join(_TASKS)}, {_GYM}GENERATOR, "
            f"and your own as module:Class. Received: {path}.name={name!r}"
        )
    return _TASKS[name]


def _is_task(value) -> bool:
    return inspect.isclass(value) and issubclass(value, Task)
