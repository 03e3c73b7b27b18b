"""`DrawnTask`: a task whose problems are drawn at random. A subclass says how one is drawn."""

from __future__ import annotations

import operator
import random
import re
from abc import abstractmethod
from typing import Any

from keras_aha.tasks.held_out import HeldOut
from keras_aha.tasks.held_out_split import is_held_out, stable_hash
from keras_aha.tasks.task import Task

_ADDRESS = re.compile(" at 0x[0-9a-f]+>")  # in the text of an object whose class has none
_FRUITLESS_DRAWS = 20_000  # draws in a row without a new puzzle, after which there are no more


class DrawnTask(Task):
    """Problems that are a pure function of `(seed, index)`, a quarter of all puzzles held out.

    A subclass has `draw`, `prompt` and `score`, and `canonical` if problems that differ may be the same puzzle.

    Args:
        seed: any integer, else ValueError; it changes the order of the problems, never which puzzles are held out.
    """

    def __init__(self, seed: int = 0):
        if not isinstance(seed, int):
            raise ValueError(f"seed must be an integer. Received: seed={seed!r}")
        self.seed = seed

    @abstractmethod
    def draw(self, rng: random.Random) -> Any:
        """Returns a problem drawn with `rng`, or `None` if this draw makes none."""

    def canonical(self, problem: Any) -> tuple:
        """Returns what makes two problems the same puzzle: a tuple, whose `repr` is the same in every process."""
        return (problem,)

    def is_held_out(self, problem: Any) -> bool:
        """Returns whether the puzzle belongs to the quarter that is never trained on, whatever the seed."""
        return is_held_out(*self.canonical(problem))

    def problem(self, index: int) -> Any:
        """Returns training problem `index`, drawn anew at every call.

        Raises:
            IndexError: if `index` is negative.
            ValueError: if no puzzle to train on can be drawn.
        """
        rng = random.Random(stable_hash("problem", self.seed, check_index(index)))
        for _ in range(_FRUITLESS_DRAWS):
            problem = self.draw(rng)
            if problem is not None and not self.is_held_out(problem):
                return problem
        arguments = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        raise ValueError(f"{type(self).__name__} draws no puzzle to train on. Received: {arguments}")

    def held_out(self, n: int) -> HeldOut:
        rng = random.Random(stable_hash("held-out problems", self.seed))
        puzzles, fruitless = {}, 0
        while len(puzzles) < operator.index(n) and fruitless < _FRUITLESS_DRAWS:
            problem = self.draw(rng)
            fruitless += 1
            if problem is not None and (key := self._key(problem)) not in puzzles and self.is_held_out(problem):
                puzzles[key] = problem
                fruitless = 0
        return HeldOut(self, list(puzzles.values())).held_out(n)

    def _key(self, problem) -> str:
        """The text of what makes it a puzzle, as a problem may be a dictionary, or anything with a `repr`."""
        key = repr(canonical := self.canonical(problem))
        if not isinstance(canonical, tuple) or _ADDRESS.search(key):
            raise ValueError(
                f"`{type(self).__name__}.canonical` must return a tuple with a text of its own, as numbers, texts, "
                f"dictionaries and data classes have. Received: {key} for the problem {problem!r}"
            )
        return key


def check_index(index: int) -> int:
    """Returns `index`, the number of a training problem; raises IndexError if it is negative."""
    if operator.index(index) < 0:
        raise IndexError(f"Problems are counted from 0. Received: index={index!r}")
    return operator.index(index)
