"""`AttemptChecker`: tells a policy what its attempt at a Countdown puzzle is worth."""

from collections import Counter
from typing import Any

from keras_aha.tasks.countdown import CountdownProblem
from keras_aha.tasks.tools.calculator import read_expression
from keras_aha.tasks.tools.tool import Tool


class AttemptChecker(Tool):
    """Says of an expression, which may be a part of a solution, what its value is, whether that is the target, and
    which numbers are left or were used too often. It never says how a puzzle is solved."""

    name = "attempts"
    description = "says of an expression, or a part of one, whether it is right so far"
    parameters = {"properties": {"expression": {"type": "string"}}, "required": ["expression"]}

    def check(self, problem: Any) -> None:
        super().check(problem)
        if not isinstance(problem, CountdownProblem):
            raise ValueError(
                "The tool `attempts` checks Countdown puzzles: leave it out, or ask no other tasks. Received: "
                f"a problem of the type {type(problem).__name__}"
            )

    def call(self, problem: CountdownProblem, expression: str) -> str:
        attempt = read_expression(expression)
        given, used = Counter(problem.numbers), Counter(attempt.numbers)
        is_target = attempt.value == problem.target
        words = [f"Its value is {attempt.value}, {'the target' if is_target else f'not {problem.target}'}."]
        for numbers, meaning in ((used - given, "used but not given, or too often"), (given - used, "not used yet")):
            if numbers:
                words.append(f"{', '.join(map(str, sorted(numbers.elements())))}: {meaning}.")
        return " ".join([*words, "It is right."] if is_target and used == given else words)
