"""Multiplication: the product of two integers, TinyZero's second task."""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

from keras_aha.tasks.answer_tag import read_answer
from keras_aha.tasks.drawn_task import DrawnTask
from keras_aha.tasks.task import Score
from keras_aha.tasks.template import named_templates, resolve_template

TEMPLATES = named_templates(
    "What is {first} times {second}? "
    "Think inside <think> </think> tags, then give only the number inside <answer> </answer> tags, "
    "for example <answer>42</answer>.",
    compact="{first}*{second}=?",
)
_MAX_DIGITS = 6  # of a factor
_INTEGER = re.compile(r"[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+")
_LONGEST = 40  # characters of an answer


@dataclass(frozen=True)
class MultiplicationProblem:
    """Two positive integers to be multiplied, in the order in which the prompt shows them."""

    first: int
    second: int

    def __str__(self) -> str:
        return f"{self.first} * {self.second}"

    @property
    def product(self) -> int:
        """What the answer must be."""
        return self.first * self.second

    @property
    def canonical(self) -> tuple[int, int]:
        """The factors, sorted: what makes two problems the same puzzle."""
        return min(self.first, self.second), max(self.first, self.second)


class Multiplication(DrawnTask):
    """Products of two integers of a given number of digits, a pure function of `(seed, index)`.

    Args:
        digits: how many digits a factor has, or the counts to choose from for each (1 to 6). A factor of one digit is 2
            to 9, a longer one has no trailing zero, so that there is something to work out.
        seed: any integer; it changes the order of the problems, never which puzzles are held out.
        template: how a prompt is written: the name of one (see `template.named_templates`), such as `"plain"`, or a
            format string with the fields `{first}` and `{second}`.

    Raises:
        ValueError: if an argument is out of range or the template unknown.
    """

    def __init__(self, digits: int | Sequence[int] = (2, 3), seed: int = 0, template: str = "plain"):
        counts = tuple(digits) if isinstance(digits, Sequence) else (digits,)
        if not counts or not all(isinstance(count, int) and 1 <= count <= _MAX_DIGITS for count in counts):
            which = f"from 1 to {_MAX_DIGITS}, or several such counts, e.g. [2, 3]"
            raise ValueError(f"digits must be {which}. Received: digits={digits!r}")
        super().__init__(seed)
        self.digits = counts
        self.template = template
        self._format_string = resolve_template(template, TEMPLATES, {"first": 1, "second": 2})

    def draw(self, rng: random.Random) -> MultiplicationProblem:
        return MultiplicationProblem(*(_draw_factor(rng.choice(self.digits), rng) for _ in range(2)))

    def canonical(self, problem: MultiplicationProblem) -> tuple[str, int, int]:
        return "multiplication", *problem.canonical  # a word that tells them from other tasks' pairs

    def prompt(self, problem: MultiplicationProblem) -> str:
        return self._format_string.format(first=problem.first, second=problem.second)

    def score(self, problem: MultiplicationProblem, completion: str) -> Score:
        """Scores the last complete `<answer>…</answer>` of `completion`: 1.0 if it is the product, else 0.0.

        Text after the answer takes 0.1 away, and so does more than one answer tag (see `answer_tag`). Commas may stand
        between thousands. Verdicts, the first that applies: `no_answer`, `too_long`, `not_a_number`, `wrong_value`,
        `correct`.
        """
        answer = read_answer(completion)
        if answer.text is None or len(answer.text) > _LONGEST:
            return Score(0.0, False, "no_answer" if answer.text is None else "too_long")
        number = _read_integer(answer.text)
        if number != problem.product:
            return Score(0.0, False, "not_a_number" if number is None else "wrong_value")
        return Score(1.0 - answer.deduction, True, "correct")

    def difficulty(self, problem: MultiplicationProblem) -> int:
        """Returns the number of products of two digits that a long multiplication takes, zeros aside."""
        first, second = (len(str(factor).replace("0", "")) for factor in problem.canonical)
        return first * second

    def labels(self, problem: MultiplicationProblem) -> dict[str, int]:
        """Returns `digits`, of both factors together, and `difficulty`."""
        digits = len(str(problem.first)) + len(str(problem.second))
        return {"digits": digits, "difficulty": self.difficulty(problem)}

    def reference(self, problem: MultiplicationProblem) -> str:
        return str(problem.product)

    def answer(self, completion: str) -> str | None:
        """Returns the number that `score` reads, without commas and leading zeros; `None` if there is none."""
        text = read_answer(completion).text
        number = None if text is None or len(text) > _LONGEST else _read_integer(text)
        return None if number is None else str(number)

    def worked_solution(
        self, problem: MultiplicationProblem, rng: random.Random, *, guess_rate: float = 0.0, slip_rate: float = 0.0
    ) -> str:
        """Returns the product worked out digit by digit, as in `20*4=80,3*4=12,80+12=92` for 23 · 4, and the answer.

        Args:
            guess_rate: probability of answering at once, with a number at random that has as many digits.
            slip_rate: probability for each equation that its result is off by a little; what follows builds on it.
        """
        if rng.random() < guess_rate:
            low = 10 ** (len(str(problem.product)) - 1)
            return f"</think>\n<answer>{rng.randrange(low, 10 * low)}</answer>"
        steps = []

        def work_out(left, sign, right):
            result = left * right if sign == "*" else left + right
            if rng.random() < slip_rate:
                result = max(0, result + rng.choice((-10, -2, -1, 1, 2, 10)))
            steps.append(f"{left}{sign}{right}={result}")
            return result

        small, large = problem.canonical
        places = [int(digit) * 10**place for place, digit in enumerate(reversed(str(large)))]
        products = [work_out(place, "*", small) for place in reversed(places) if place]
        total = reduce(lambda total, product: work_out(total, "+", product), products)
        return f"{','.join(steps)}\n</think>\n<answer>{total}</answer>"

    def worked_calls(
        self, problem: MultiplicationProblem, rng: random.Random, call: Callable, *, slip_rate: float = 0.0, **others
    ) -> str:
        """Returns the answer of the calculator, which is asked at once.

        Args:
            slip_rate: probability that a wrong factor is asked; the answer is then what that gives.
            others: habits of `worked_solution`.
        """
        second = problem.second + (rng.choice((-1, 1)) if rng.random() < slip_rate else 0)
        return f"</think>\n<answer>{call('', 'calculator', expression=f'{problem.first}*{second}')}</answer>"


def _draw_factor(digits: int, rng: random.Random) -> int:
    if digits == 1:
        return rng.randint(2, 9)
    return rng.randrange(10 ** (digits - 1), 10**digits, 10) + rng.randint(1, 9)


def _read_integer(text: str) -> int | None:
    text = text.strip()
    return int(text.replace(",", "")) if _INTEGER.fullmatch(text) else None
