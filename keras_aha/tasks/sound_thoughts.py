"""`sound_thoughts`: the share of a Countdown completion's thoughts that are true, a reward beside the answer's."""

import re
from collections import Counter
from fractions import Fraction

from keras_aha.tasks.answer_tag import read_answer
from keras_aha.tasks.countdown import CountdownProblem

_MOST = 100  # lines that are read, and characters of one
_EQUATION = re.compile(r"([0-9]{1,6}) ?([-+*/]) ?([0-9]{1,6}) ?= ?([0-9]{1,6})")


def sound_thoughts(problem: CountdownProblem, completion: str) -> float:
    """The share of lines before `</think>` that are sound, 0 to 1; 0 without an answer tag that closes.

    A line is an attempt in the form of the template `"thinking_examples"`, such as `8-1=7, 7+5=12, yes`. It is sound if
    each equation is true, the numbers are the puzzle's or results before it, each used at most once, and its last word
    is `yes` if all of them are used and the target is reached, else `no`. So a policy earns it by reckoning and judging
    right, wherever that leads; the answer is the task's own reward.
    """
    if read_answer(completion).text is None:
        return 0.0
    lines = completion.partition("</think>")[0].strip().split("\n", _MOST)
    return sum(_is_sound(problem, line) for line in lines if len(line) <= _MOST) / len(lines)


def _is_sound(problem: CountdownProblem, line: str) -> bool:
    *equations, verdict = line.strip().split(", ")
    numbers = Counter(problem.numbers)
    for equation in equations:
        match = _EQUATION.fullmatch(equation)
        if not match:
            return False
        left, right, result = int(match[1]), int(match[3]), int(match[4])
        numbers.subtract([left, right])
        if min(numbers.values()) < 0 or _value(left, match[2], right) != result:
            return False
        numbers[result] += 1
    solved = +numbers == Counter([problem.target])
    return bool(equations) and verdict == ("yes" if solved else "no")


def _value(left: int, sign: str, right: int) -> Fraction | None:
    if sign == "/":
        return Fraction(left, right) if right else None
    return Fraction({"+": left + right, "-": left - right, "*": left * right}[sign])
