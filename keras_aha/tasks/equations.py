"""Equations with one unknown, such as `x*3+4=19`: guessed, worked out, compared, guessed again."""

import operator
import random
from collections.abc import Callable
from dataclasses import dataclass

from keras_aha.tasks.answer_tag import read_answer
from keras_aha.tasks.drawn_task import DrawnTask
from keras_aha.tasks.task import Score
from keras_aha.tasks.template import named_templates, resolve_template

TEMPLATES = named_templates(
    "Find the positive integer x for which {equation}. "
    "Think inside <think> </think> tags, then give only the number inside <answer> </answer> tags, "
    "for example <answer>4</answer>.",
    compact="{equation}.",
)
_SIGNS: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_KINDS = ("*+", "*-", "+*", "-*")  # the first sign, and the second: with two of a kind there is less to work out
_LONGEST = 40  # characters of an answer


@dataclass(frozen=True)
class EquationProblem:
    """An equation such as `x*3+4=19` or `(x+2)*3=21`: x and `first` by the first of the `signs`, then `second`."""

    signs: str
    first: int
    second: int
    x: int

    def __str__(self) -> str:
        left = f"x{self.signs[0]}{self.first}"
        left = f"({left})" if self.signs[1] == "*" else left
        return f"{left}{self.signs[1]}{self.second}={self.target}"

    @property
    def target(self) -> int:
        """What the left side must be."""
        return self.values(self.x)[1]

    def values(self, guess: int) -> tuple[int, int]:
        """What the two operations make of a guess."""
        value = _SIGNS[self.signs[0]](guess, self.first)
        return value, _SIGNS[self.signs[1]](value, self.second)


class Equations(DrawnTask):
    """Linear equations with one solution, a pure function of `(seed, index)`.

    Args:
        max_number: x and both numbers beside it are drawn from 1 to this.
        max_target: the right side, and every value on the way, lies between 1 and this.
        seed: any integer; it changes the order of the problems, never which puzzles are held out.
        template: how a prompt is written: the name of one (see `template.named_templates`), such as `"plain"`, or a
            format string with the field `{equation}`.

    Raises:
        ValueError: if an argument is out of range, the template unknown, or no equation left to train on.
    """

    def __init__(self, max_number: int = 9, max_target: int = 100, seed: int = 0, template: str = "plain"):
        for name, value in (("max_number", max_number), ("max_target", max_target)):
            if not isinstance(value, int) or value < 2:
                raise ValueError(f"{name} must be an integer from 2. Received: {name}={value!r}")
        super().__init__(seed)
        self.max_number = max_number
        self.max_target = max_target
        self.template = template
        self._format_string = resolve_template(template, TEMPLATES, {"equation": "x*3+4=19"})
        self.problem(0)  # if nothing can be drawn, it raises now, not in the middle of a run

    def draw(self, rng: random.Random) -> EquationProblem | None:
        numbers = (rng.randint(1, self.max_number) for _ in range(3))
        problem = EquationProblem(rng.choice(_KINDS), *numbers)
        return problem if self._is_small(problem, problem.x) else None

    def canonical(self, problem: EquationProblem) -> tuple[str, str]:
        return "equation", str(problem)

    def prompt(self, problem: EquationProblem) -> str:
        return self._format_string.format(equation=problem)

    def score(self, problem: EquationProblem, completion: str) -> Score:
        """Scores the last complete `<answer>…</answer>` of `completion`: 1.0 if it is x, in digits, else 0.0.

        Text after the answer takes 0.1 away, and so does more than one answer tag (see `answer_tag`). Verdicts, the
        first that applies: `no_answer`, `too_long`, `not_a_number`, `wrong_value`, `correct`.
        """
        answer = read_answer(completion)
        if answer.text is None or len(answer.text) > _LONGEST:
            return Score(0.0, False, "no_answer" if answer.text is None else "too_long")
        number = self.answer(completion)
        if number != str(problem.x):
            return Score(0.0, False, "not_a_number" if number is None else "wrong_value")
        return Score(1.0 - answer.deduction, True, "correct")

    def answer(self, completion: str) -> str | None:
        """Returns the number that `score` reads, without leading zeros; `None` if there is none."""
        text = (read_answer(completion).text or "").strip()
        return str(int(text)) if text.isascii() and text.isdigit() and len(text) <= _LONGEST else None

    def worked_solution(
        self,
        problem: EquationProblem,
        rng: random.Random,
        *,
        straight: bool = False,
        max_attempts: int = 24,
        verdicts: bool = True,
    ) -> str:
        """Returns guesses at random, none of them twice, each worked out and judged, as in `4*3=12,12+4=16 no`.

        Args:
            straight: whether the first guess is x, so that none fails.
            max_attempts: guesses after which the last one is the answer.
            verdicts: whether a yes or no is written behind each guess.
        """
        guesses = [guess for guess in range(1, self.max_number + 1) if self._is_small(problem, guess)]
        rng.shuffle(guesses)
        guesses = [problem.x] if straight else guesses[: guesses.index(problem.x) + 1][:max_attempts]
        thoughts = "".join(_attempt(problem, guess, verdicts) for guess in guesses)
        return f"{thoughts}</think>\n<answer>{guesses[-1]}</answer>"

    def _is_small(self, problem: EquationProblem, guess: int) -> bool:
        return all(1 <= value <= self.max_target for value in problem.values(guess))


def _attempt(problem: EquationProblem, guess: int, verdicts: bool) -> str:
    (sign, other_sign), (value, result) = problem.signs, problem.values(guess)
    verdict = (" yes" if result == problem.target else " no") if verdicts else ""
    return f"{guess}{sign}{problem.first}={value},{value}{other_sign}{problem.second}={result}{verdict}\n"
