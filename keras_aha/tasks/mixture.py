"""`Mixture`: several tasks as one, each with its share of the problems."""

import bisect
import functools
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from keras_aha.tasks.drawn_task import check_index
from keras_aha.tasks.held_out import HeldOut
from keras_aha.tasks.held_out_split import stable_hash
from keras_aha.tasks.task import Score, Task
from keras_aha.tasks.turn import Observation, Turn

_TURNS = 5040  # until they come again, to a few; shares of twentieths, sixths, sevenths and so on are exact
_KNOWN = 64  # problems of a task with which others are compared


class MixedProblem(NamedTuple):
    """A problem of one of a mixture's tasks, whose number `task` is."""

    task: int
    problem: Any

    def __str__(self) -> str:
        return str(self.problem)


class Mixture(Task):
    """Problems of several tasks in turn: each task writes its prompts and keeps its score.

    The turns are spread evenly: with weights 2, 1, 1 they are of the tasks 0, 1, 2, 0, 0, 1, 2, 0, … A task's problems
    come in its own order, none left out. So an epoch has the shares that were asked for, to one problem or so.

    Args:
        tasks: the tasks.
        weights: how often each is asked, one number above 0 a task; empty is all as often. It is 1 of 5,040 times at
            least.
        habits: keyword arguments of each task's `worked_solution`, one dictionary a task; empty is none.
        names: what logs and tables call each task, all different; empty is its number.

    Raises:
        ValueError: if there are no tasks, or not as many weights, habits or names, a weight is not above 0, or a name
            is given twice.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        weights: Sequence[float] = (),
        habits: Sequence[dict] = (),
        names: Sequence[str] = (),
    ):
        self.tasks = tuple(tasks)
        count = len(self.tasks)
        self.weights = tuple(weights) or (1.0,) * count
        self.habits = tuple(habits) or ({},) * count
        self.names = tuple(names) or tuple(map(str, range(count)))
        lengths = {len(self.weights), len(self.habits), len(self.names), len(set(self.names))}
        if not self.tasks or lengths != {count} or min(self.weights) <= 0:
            raise ValueError(
                "A mixture needs one task or more, and for each a weight above 0, a dictionary of habits and a name of "
                f"its own. Received: {count} tasks, weights={weights}, habits={habits}, names={names}"
            )
        shares = [max(1, round(_TURNS * weight / sum(self.weights))) for weight in self.weights]
        turns = sorted(((i + 0.5) / share, task) for task, share in enumerate(shares) for i in range(share))
        self._turns = [task for _, task in turns]
        self._places = [[place for place, turn in enumerate(self._turns) if turn == task] for task in range(count)]

    def problem(self, index: int) -> MixedProblem:
        """Returns training problem `index`: of the task whose turn it is, the next one after that of its last turn."""
        rounds, place = divmod(check_index(index), len(self._turns))
        places = self._places[task := self._turns[place]]
        number = rounds * len(places) + bisect.bisect_left(places, place)
        return MixedProblem(task, self.tasks[task].problem(number))

    def listed(self) -> list[int]:
        """Returns the numbers at which each problem comes first of those tasks that have a `problem_count`."""
        numbers = []
        for task, places in zip(self.tasks, self._places, strict=True):
            rounds = (divmod(i, len(places)) for i in range(task.problem_count() or 0))
            numbers += [i * len(self._turns) + places[place] for i, place in rounds]
        return sorted(numbers)

    def problem_count(self) -> int | None:
        if any(task.problem_count() is None for task in self.tasks):
            return None
        return self.listed()[-1] + 1

    def prompt(self, problem: MixedProblem) -> str:
        return self.tasks[problem.task].prompt(problem.problem)

    def score(self, problem: MixedProblem, completion: str) -> Score:
        return self.tasks[problem.task].score(problem.problem, completion)

    def held_out(self, n: int) -> HeldOut:
        """Returns held-out problems of each task in turn, whatever the weights."""
        count = len(self.tasks)
        parts = []
        for name, task in zip(self.names, self.tasks, strict=True):
            try:
                parts.append(task.held_out(-(-n // count)))
            except ValueError as error:
                raise ValueError(f"Of the task {name!r}, of which {n} / {count} are needed: {error}") from error
        problems = [MixedProblem(i % count, parts[i % count].problem(i // count)) for i in range(n)]
        return HeldOut(self, problems).held_out(n)

    def difficulty(self, problem: MixedProblem) -> float:
        """Returns the share of its task's problems that are easier, as difficulties of two tasks cannot be compared.

        It is measured on 64 problems. The text of the prompt decides among problems that are equally difficult. It is 0
        for all if no task can tell.
        """
        if all(known[0] == known[-1] for known in self._difficulties):
            return 0
        known = self._difficulties[problem.task]
        difficulty = self.tasks[problem.task].difficulty(problem.problem)
        easier, no_harder = bisect.bisect_left(known, difficulty), bisect.bisect_right(known, difficulty)
        chance = stable_hash("difficulty", self.prompt(problem)) / 2**64
        return (easier + chance * (no_harder - easier)) / len(known)

    def reference(self, problem: MixedProblem) -> str | None:
        return self.tasks[problem.task].reference(problem.problem)

    def labels(self, problem: MixedProblem) -> dict[str, int | float | str]:
        """Returns the name of the task as `task`, and those labels that all tasks have."""
        own = self.tasks[problem.task].labels(problem.problem)
        shared = {name: value for name, value in own.items() if name in self._shared_labels}
        return {"task": self.names[problem.task]} | shared

    def worked_solution(self, problem: MixedProblem, rng: random.Random, **habits) -> str:
        """Returns one of the problem's task, with that task's `habits`; those given here are for all tasks."""
        own = self.habits[problem.task] | habits
        return self.tasks[problem.task].worked_solution(problem.problem, rng, **own)

    def worked_turns(self, problem: MixedProblem, rng: random.Random, **habits) -> list[Turn]:
        own = self.habits[problem.task] | habits
        return self.tasks[problem.task].worked_turns(problem.problem, rng, **own)

    @property
    def max_turns(self) -> int:
        return max(task.max_turns for task in self.tasks)

    @property
    def turn_ends(self) -> tuple[str, ...]:
        """Those of all tasks: each ends a turn of any of them."""
        return tuple(dict.fromkeys(end for task in self.tasks for end in task.turn_ends))

    def respond(self, problem: MixedProblem, turns: Sequence[Turn]) -> Observation | None:
        """Returns what the problem's task answers, while it has turns left."""
        task = self.tasks[problem.task]
        return task.respond(problem.problem, turns) if len(turns) < task.max_turns else None

    def score_turns(self, problem: MixedProblem, turns: Sequence[Turn]) -> Score:
        return self.tasks[problem.task].score_turns(problem.problem, turns)

    @functools.cached_property
    def _difficulties(self) -> list[list[float]]:
        """For each task those of its first problems, in order."""
        return [sorted(task.difficulty(task.problem(i)) for i in range(_KNOWN)) for task in self.tasks]

    @functools.cached_property
    def _shared_labels(self) -> set[str]:
        return set.intersection(*(set(task.labels(task.problem(0))) for task in self.tasks)) - {"task"}


def task_of(task: Task, problem: Any) -> Task:
    """The task of a mixture, or of its held-out problems, that a problem is of; any other task itself."""
    mixture = task.task if isinstance(task, HeldOut) else task
    return mixture.tasks[problem.task] if isinstance(mixture, Mixture) else task
