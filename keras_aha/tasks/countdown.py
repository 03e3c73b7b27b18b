"""Countdown: make the target from the numbers, each used exactly once, with `+ - * /` and brackets."""

import operator
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike

from keras_aha.tasks.answer_tag import read_answer
from keras_aha.tasks.countdown_examples import EXAMPLE_TEMPLATES, is_example, shown, worked_examples
from keras_aha.tasks.countdown_file import read_puzzles
from keras_aha.tasks.countdown_solver import MAX_NUMBERS, difficulty, shortest_solution
from keras_aha.tasks.countdown_trace import search_trace
from keras_aha.tasks.drawn_task import DrawnTask, check_index
from keras_aha.tasks.expression import ExpressionError, canonical_text, parse_expression
from keras_aha.tasks.held_out import HeldOut
from keras_aha.tasks.held_out_split import split_rows
from keras_aha.tasks.task import Score
from keras_aha.tasks.template import named_templates, resolve_template

WRONG_REWARD = 0.1  # the numbers used as asked, but not the target: a constant text cannot earn it everywhere
TEMPLATES = (
    named_templates(
        "Numbers: {numbers}\nTarget: {target}\n"
        "Write one arithmetic expression that equals the target. Use each number exactly once. "
        "Only +, -, *, / and parentheses are allowed. "
        "Think inside <think> </think> tags, then give only the expression inside <answer> </answer> tags, "
        "for example <answer>(1 + 2) * 3</answer>.",
        compact="Use {numbers} each once to make {target}.",
    )
    | EXAMPLE_TEMPLATES
)


@dataclass(frozen=True)
class CountdownProblem:
    """Numbers and the target to be made from them.

    Args:
        numbers: one or more integers from 0, in the order in which the prompt shows them; else ValueError.
        target: any integer; else ValueError.
    """

    numbers: tuple[int, ...]
    target: int

    def __post_init__(self):
        try:
            numbers = tuple(operator.index(number) for number in self.numbers)
            target = operator.index(self.target)
        except TypeError:
            numbers, target = (), 0
        if not numbers or min(numbers) < 0:
            raise ValueError(
                "A Countdown problem has one or more integer numbers, none negative, and an integer target. "
                f"Received: numbers={self.numbers!r}, target={self.target!r}"
            )
        object.__setattr__(self, "numbers", numbers)
        object.__setattr__(self, "target", target)

    def __str__(self) -> str:
        return f"{' '.join(map(str, self.numbers))} -> {self.target}"

    @property
    def canonical(self) -> tuple[tuple[int, ...], int]:
        """Sorted numbers and the target: what makes two problems the same puzzle."""
        return tuple(sorted(self.numbers)), self.target

    @cached_property
    def solution(self) -> str | None:
        """The shortest solution (see `countdown_solver.shortest_solution`); `None` if there is none."""
        return shortest_solution(self.numbers, self.target)

    @cached_property
    def difficulty(self) -> int:
        """About how many bits of luck a blind guess needs (see `countdown_solver.difficulty`); small is easy."""
        return difficulty(self.numbers, self.target)


class Countdown(DrawnTask):
    """Countdown puzzles, always solvable, a pure function of `(seed, index)`.

    A puzzle is made by drawing numbers and combining all of them at random, two at a time, so that every value on
    the way is a positive integer: the rule of the television game.

    Args:
        num_numbers: how many numbers a problem has, or the counts to choose from (2 to 6).
        max_number: numbers are drawn from 1 to this.
        max_target: targets lie between 1 and this.
        seed: any integer; it changes the order of the problems, never which puzzles are held out.
        template: how a prompt is written: the name of one (see `template.named_templates`), such as `"plain"`, or a
            format string with the fields `{numbers}` and `{target}`. `"examples"` and `"thinking_examples"` begin with
            three worked examples, of as many numbers as the puzzle has (three at most). Their puzzles are never asked.
        puzzles: a CSV or Parquet file with the columns `nums` and `target`, used instead of drawn puzzles (see
            `countdown_file.read_puzzles`), in a shuffled order, again and again. The first three arguments are not used
            then.

    Raises:
        ValueError: if an argument is out of range, the template unknown, the file not readable, or no puzzle left
            to train on.
    """

    def __init__(
        self,
        num_numbers: int | Sequence[int] = (3, 4),
        max_number: int = 99,
        max_target: int = 100,
        seed: int = 0,
        template: str = "plain",
        puzzles: str | PathLike | None = None,
    ):
        counts = tuple(num_numbers) if isinstance(num_numbers, Sequence) else (num_numbers,)
        if not counts or not all(isinstance(count, int) and 2 <= count <= MAX_NUMBERS for count in counts):
            raise ValueError(
                f"num_numbers must be from 2 to {MAX_NUMBERS}, or several such counts, e.g. [3, 4]. "
                f"Received: num_numbers={num_numbers!r}"
            )
        for name, value in (("max_number", max_number), ("max_target", max_target)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer from 1. Received: {name}={value!r}")
        super().__init__(seed)
        self.num_numbers = counts
        self.max_number = max_number
        self.max_target = max_target
        self.template = template
        self._format_string = resolve_template(template, TEMPLATES, {"numbers": "1 2", "target": 3})
        self._training = self._held_out = None  # the rows of a file
        if puzzles is not None:
            rows = [CountdownProblem(numbers, target) for numbers, target in read_puzzles(puzzles)]
            rows = [row for row in rows if not is_example(template, row.numbers, row.target)]
            self._training, self._held_out = split_rows(rows, self.canonical, seed)
            if not self._training:
                raise ValueError(f"The puzzle file leaves no puzzle to train on. Received: puzzles={str(puzzles)!r}")
        self.problem(0)  # if nothing can be drawn, it raises now, not in the middle of a run

    def draw(self, rng: random.Random) -> CountdownProblem | None:
        """Returns a solvable puzzle; `None` if its target would be too large."""
        count = rng.choice(self.num_numbers)
        numbers = tuple(rng.randint(1, self.max_number) for _ in range(count))
        target = _combine_all(list(numbers), rng)
        problem = CountdownProblem(numbers, target)
        return None if target > self.max_target or is_example(self.template, numbers, target) else problem

    def canonical(self, problem: CountdownProblem) -> tuple[tuple[int, ...], int]:
        return problem.canonical

    def problem(self, index: int) -> CountdownProblem:
        if self._training is None:
            return super().problem(index)
        return self._training[check_index(index) % len(self._training)]

    def prompt(self, problem: CountdownProblem) -> str:
        question = self._format_string.format(numbers=shown(problem.numbers), target=problem.target)
        if self.template not in EXAMPLE_TEMPLATES:
            return question
        return worked_examples(self.template, len(problem.numbers)) + question

    def score(self, problem: CountdownProblem, completion: str) -> Score:
        """Scores the last complete `<answer>…</answer>` of `completion`.

        The reward is 1.0 if correct; 0.1 if an expression uses the numbers as asked but does not solve the problem;
        else 0.0. Text after the answer takes 0.1 away, and so does more than one answer tag (see `answer_tag`): a
        correct answer keeps at least 0.8, a wrong one nothing. Verdicts, the first that applies: `no_answer`,
        `too_long`, `not_an_expression`, `wrong_numbers`, `division_by_zero`, `false_equation` (a trailing `= 23` that
        is not so), `wrong_value`, `correct`.
        """
        answer = read_answer(completion)
        verdict = "no_answer" if answer.text is None else _verdict(problem, answer.text)
        if verdict in ("no_answer", "too_long", "not_an_expression", "wrong_numbers"):
            return Score(0.0, False, verdict)
        reward = 1.0 if verdict == "correct" else WRONG_REWARD
        return Score(max(reward - answer.deduction, 0.0), verdict == "correct", verdict)

    def held_out(self, n: int) -> HeldOut:
        return super().held_out(n) if self._held_out is None else HeldOut(self, self._held_out).held_out(n)

    def problem_count(self) -> int | None:
        return None if self._training is None else len(self._training)

    def difficulty(self, problem: CountdownProblem) -> int:
        """Returns the problem's own (with six numbers it takes seconds to compute)."""
        return problem.difficulty

    def labels(self, problem: CountdownProblem) -> dict[str, int]:
        """Returns `num_numbers` and `difficulty`."""
        return {"num_numbers": len(problem.numbers), "difficulty": problem.difficulty}

    def answer(self, completion: str) -> str | None:
        """Returns the expression that `score` reads, see `expression.canonical_text`; `None` if none can be read.

        A majority votes on expressions, not on their values: the prompt gives the value away.
        """
        answer = read_answer(completion).text
        try:
            return None if answer is None else canonical_text(answer)
        except ExpressionError:
            return None

    def worked_solution(self, problem: CountdownProblem, rng: random.Random, **habits) -> str:
        """Returns a search trace with its answer (see `countdown_trace.search_trace`, which lists the habits)."""
        return search_trace(problem.numbers, problem.target, rng, **habits)


def _combine_all(values: list[int], rng: random.Random) -> int:
    while len(values) > 1:
        low, high = sorted(values.pop(rng.randrange(len(values))) for _ in range(2))
        ways = [low + high, low * high]
        if high > low:
            ways.append(high - low)
        if high % low == 0:
            ways.append(high // low)
        values.append(rng.choice(ways))
    return values[0]


def _verdict(problem: CountdownProblem, answer: str) -> str:
    try:
        expression = parse_expression(answer)
    except ExpressionError as error:
        return error.verdict
    if sorted(expression.numbers) != sorted(problem.numbers):
        return "wrong_numbers"
    if expression.value is None:
        return "division_by_zero"
    if expression.stated is not None and expression.stated != expression.value:
        return "false_equation"
    return "correct" if expression.value == problem.target else "wrong_value"
