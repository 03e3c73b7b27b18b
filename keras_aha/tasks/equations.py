"""Equations with one unknown, such as `(x*3)+4=19`: guessed, worked out, compared, guessed again."""

import operator
import random
from collections.abc import Callable
from dataclasses import dataclass

from keras_aha.tasks.answer_tag import read_answer
from keras_aha.tasks.drawn_task import DrawnTask
from keras_aha.tasks.expression import ExpressionError, canonical_text, parse_expression
from keras_aha.tasks.task import Score
from keras_aha.tasks.template import named_templates, resolve_template

TEMPLATES = named_templates(
    "Find the positive integer x for which {equation}. "
    "Think inside <think> </think> tags, then write the left side with your number for x inside <answer> </answer> "
    "tags, for example <answer>(1 + 2) * 3</answer>.",
    compact="{equation}.",
)
_SIGNS: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_KINDS = ("*+", "*-", "+*", "-*")  # the first sign, and the second: with two of a kind there is less to work out


@dataclass(frozen=True)
class EquationProblem:
    """An equation such as `(x*3)+4=19` or `(x+2)*3=21`: x and `first` by the first of the `signs`, then `second`."""

    signs: str
    first: int
    second: int
    x: int

    def __str__(self) -> str:
        return f"{self.left_side('x')}={self.target}"

    @property
    def target(self) -> int:
        """What the left side must be."""
        return self.values(self.x)[1]

    def left_side(self, x: int | str) -> str:
        """The left side, with `x` for the unknown."""
        return f"({x}{self.signs[0]}{self.first}){self.signs[1]}{self.second}"

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
        self._format_string = resolve_template(template, TEMPLATES, {"equation": "(x*3)+4=19"})
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
        """Scores the last complete `<answer>…</answer>` of `completion`: 1.0 if it is the left side with x filled in.

        That is an expression of x and the two numbers, in this order, whose value is the right side; else it is 0.0.
        Text after the answer takes 0.1 away, and so does more than one answer tag (see `answer_tag`). Verdicts, the
        first that applies: `no_answer`, `too_long`, `not_an_expression`, `wrong_value`, `correct`.
        """
        answer = read_answer(completion)
        if answer.text is None:
            return Score(0.0, False, "no_answer")
        try:
            expression = parse_expression(answer.text)
        except ExpressionError as error:
            return Score(0.0, False, error.verdict)
        has_numbers = expression.numbers == (problem.x, problem.first, problem.second)
        if not has_numbers or expression.value != problem.target or expression.stated not in (None, problem.target):
            return Score(0.0, False, "wrong_value")
        return Score(1.0 - answer.deduction, True, "correct")

    def answer(self, completion: str) -> str | None:
        """Returns the expression that `score` reads, see `expression.canonical_text`; `None` if none can be read."""
        answer = read_answer(completion).text
        try:
            return None if answer is None else canonical_text(answer)
        except ExpressionError:
            return None

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
        return f"{thoughts}</think>\n<answer>{problem.left_side(guesses[-1])}</answer>"

    def _is_small(self, problem: EquationProblem, guess: int) -> bool:
        return all(1 <= value <= self.max_target for value in problem.values(guess))


def _attempt(problem: EquationProblem, guess: int, verdicts: bool) -> str:
    (sign, other_sign), (value, result) = problem.signs, problem.values(guess)
    verdict = (" yes" if result == problem.target else " no") if verdicts else ""
    return f"{guess}{sign}{problem.first}={value},{value}{other_sign}{problem.second}={result}{verdict}\n"
