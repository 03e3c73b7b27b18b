"""Signs: put `+ - * /` between three numbers, so that they make the target from left to right."""

import random
from dataclasses import dataclass

from keras_aha.tasks.answer_tag import read_answer
from keras_aha.tasks.drawn_task import DrawnTask
from keras_aha.tasks.expression import ExpressionError, canonical_text, parse_expression
from keras_aha.tasks.task import Score
from keras_aha.tasks.template import named_templates, resolve_template

TEMPLATES = named_templates(
    "{puzzle}\nPut one of the signs +, -, *, / in the place of each question mark, so that it is true from left to "
    "right. "
    "Think inside <think> </think> tags, then give only the left side with its signs inside <answer> </answer> tags, "
    "for example <answer>(1 + 2) * 3</answer>.",
    compact="{puzzle}.",
)


@dataclass(frozen=True)
class SignsProblem:
    """Three positive integers, in their order, and what they are to make."""

    numbers: tuple[int, int, int]
    target: int

    def __str__(self) -> str:
        return f"{'?'.join(map(str, self.numbers))}={self.target}"


class Signs(DrawnTask):
    """Puzzles such as `9?1?4=2`, solved by `(9-1)/4`, a pure function of `(seed, index)`.

    Args:
        max_number: numbers are drawn from 1 to this.
        max_target: the target, and every value on the way, is an integer from 1 to this.
        seed: any integer; it changes the order of the problems, never which puzzles are held out.
        template: how a prompt is written: the name of one (see `template.named_templates`), such as `"plain"`, or a
            format string with the field `{puzzle}`.

    Raises:
        ValueError: if an argument is out of range, the template unknown, or no puzzle left to train on.
    """

    def __init__(self, max_number: int = 20, max_target: int = 100, seed: int = 0, template: str = "plain"):
        for name, value in (("max_number", max_number), ("max_target", max_target)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer from 1. Received: {name}={value!r}")
        super().__init__(seed)
        self.max_number = max_number
        self.max_target = max_target
        self.template = template
        self._format_string = resolve_template(template, TEMPLATES, {"puzzle": "9?1?4=2"})
        self.problem(0)  # if nothing can be drawn, it raises now, not in the middle of a run

    def draw(self, rng: random.Random) -> SignsProblem | None:
        numbers = tuple(rng.randint(1, self.max_number) for _ in range(3))
        attempts = self._attempts(numbers)
        return SignsProblem(numbers, rng.choice(attempts)[-1]) if attempts else None

    def canonical(self, problem: SignsProblem) -> tuple[str, str]:
        return "signs", str(problem)

    def prompt(self, problem: SignsProblem) -> str:
        return self._format_string.format(puzzle=problem)

    def score(self, problem: SignsProblem, completion: str) -> Score:
        """Scores the last complete `<answer>…</answer>` of `completion`: 1.0 if it solves the puzzle, else 0.0.

        An expression solves it if it has the numbers in their order and the target as its value. Text after the answer
        takes 0.1 away, and so does more than one answer tag (see `answer_tag`). Verdicts, the first that applies:
        `no_answer`, `too_long`, `not_an_expression`, `wrong_numbers`, `wrong_value`, `correct`.
        """
        answer = read_answer(completion)
        if answer.text is None:
            return Score(0.0, False, "no_answer")
        try:
            expression = parse_expression(answer.text)
        except ExpressionError as error:
            return Score(0.0, False, error.verdict)
        if expression.numbers != problem.numbers:
            return Score(0.0, False, "wrong_numbers")
        if expression.value != problem.target or expression.stated not in (None, problem.target):
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
        problem: SignsProblem,
        rng: random.Random,
        *,
        straight: bool = False,
        max_attempts: int = 24,
        give_up_rate: float = 0.0,
        verdicts: bool = True,
        restate: bool = False,
    ) -> str:
        """Returns attempts, each worked out and judged, as in `9-1=8,8*4=32 no`, until one is right, and the answer.

        Attempts are taken in a fixed order from a random start.

        Args:
            straight: whether the first attempt is right, so that none fails.
            max_attempts: attempts after which the last one is the answer.
            give_up_rate: probability, after each failed attempt, of answering with it all the same.
            verdicts: whether a yes or no is written behind each attempt.
            restate: whether the target is written behind each result, as in `8*4=32:2 no`.
        """
        attempts = self._attempts(problem.numbers)
        start = rng.randrange(len(attempts))
        attempts = attempts[start:] + attempts[:start]
        if straight:
            attempts = [attempt for attempt in attempts if attempt[-1] == problem.target]
        thoughts = ""
        for attempt in attempts[:max_attempts]:
            is_right = attempt[-1] == problem.target
            verdict = (" yes" if is_right else " no") * verdicts
            thoughts += f"{attempt[0]}{f':{problem.target}' * restate}{verdict}\n"
            if is_right or rng.random() < give_up_rate:
                break
        return f"{thoughts}</think>\n<answer>{attempt[1]}</answer>"

    def _attempts(self, numbers: tuple[int, int, int]) -> list[tuple[str, str, int]]:
        """Equations, the expression that they build, and its value, for all signs that leave integers in 1..max."""
        first, second, third = numbers
        attempts = []
        for sign, value in _results(first, second):
            for other_sign, result in _results(value, third):
                if 1 <= value <= self.max_target and 1 <= result <= self.max_target:
                    equations = f"{first}{sign}{second}={value},{value}{other_sign}{third}={result}"
                    attempts.append((equations, f"({first}{sign}{second}){other_sign}{third}", result))
        return attempts


def _results(left: int, right: int) -> list[tuple[str, int]]:
    """Each sign and what it makes of two numbers, if that is an integer."""
    results = [("+", left + right), ("-", left - right), ("*", left * right)]
    return results if left % right else [*results, ("/", left // right)]
