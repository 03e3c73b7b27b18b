"""`ask`: calls a method of a task, and says in a sentence if it does not keep a task's promises."""

import contextlib
import traceback
import warnings
from typing import Any

from keras_aha.tasks.mixture import MixedProblem
from keras_aha.tasks.task import Task
from keras_aha.tasks.task_view import TaskView

_SHOWN = 200  # characters of what is shown in a message


class TaskError(ValueError, RuntimeError):
    """A task or a reward that fails, or returns what it must not: a wrong value before training, an accident in it."""


def ask(task: Task, method: str, value: Any, expected: str, kind: type = object) -> Any:
    """Returns what a task's method returns for `value`.

    Raises:
        TaskError: if it raises, or what it returns is not of the `kind`, which is called `expected`.
    """
    try:
        returned = getattr(task, method)(value)
    except (KeyboardInterrupt, TaskError):
        raise
    except BaseException as error:  # whatever a user's code may raise, SystemExit too
        where = traceback.extract_tb(error.__traceback__)[-1]
        happened, cause = f"it raised {shown(error)} in line {where.lineno} of {where.filename}", error
    else:
        if isinstance(returned, kind):
            return returned
        happened, cause = shown(returned), None
    sentence = f"`{class_name(task, value)}.{method}` must return {expected}. Received: {happened}, for {shown(value)}"
    raise TaskError(sentence) from cause


def ask_problem(task: Task, number: int) -> Any:
    """`task.problem(number)`, see `ask`."""
    return ask(task, "problem", number, "a problem for each number from 0 on")


def ask_prompt(task: Task, problem: Any) -> str:
    """`task.prompt(problem)`, see `ask`."""
    return ask(task, "prompt", problem, "a text", str)


def class_name(task: Task, problem: Any = None) -> str:
    """The name of the user's class, also of its held-out problems, and in a mixture of the class the problem is of."""
    while isinstance(task, TaskView):
        task = task.task
    return class_name(task.tasks[problem.task]) if isinstance(problem, MixedProblem) else type(task).__name__


def problem_text(problem, prompt: str) -> str:
    """The problem's own `str`, or the prompt if its class has none, as a tuple has only `[(6, 1, 2)]` to show."""
    problem = problem.problem if isinstance(problem, MixedProblem) else problem
    with contextlib.suppress(Exception):  # of a user's class
        if type(problem).__str__ is not object.__str__:
            return str(problem)
    return prompt.strip()


def shown(value: Any) -> str:
    """The `repr` of anything in a line, cut to 200 characters."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # of a user's class
        text = object.__repr__(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def report_failure(kind: str, who: str, message: str, reported: dict[str, str], on_error: str, cause=None) -> None:
    """Warns that a reward or a response failed, the first time of each `who` in `reported`, to which it is added.

    It raises TaskError if `on_error` is "stop", see `RolloutCallback`.
    """
    if on_error == "stop":
        raise TaskError(f'A {kind} failed, and on_reward_error is "stop": {message}') from cause
    if who not in reported:
        reported[who] = message
        nothing = "none" if kind == "reward" else "no reward"
        warn(f"A {kind} failed, so its completion has {nothing}, as any other where it fails: {message}")


def warn(sentence: str) -> None:
    """Warns each time; `warnings.warn` would also remember each text as long as the process lives."""
    warnings.warn_explicit(sentence, UserWarning, __file__, 0)
