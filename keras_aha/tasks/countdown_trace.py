"""Worked search traces: what a patient, imperfect person writes while looking for a Countdown solution.

Priming imitates these traces, so they decide which habits the primed policy has, and which are left for GRPO.
"""

import itertools
from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple


class Attempt(NamedTuple):
    """A complete way of combining all numbers: its equations such as `9-1=8`, the expression they build, its value."""

    equations: tuple[str, ...]
    expression: str
    value: int


def search_trace(
    numbers: Sequence[int],
    target: int,
    rng: Random,
    *,
    max_attempts: int = 24,
    max_value: int = 100,
    guess_rate: float = 0.0,
    give_up_rate: float = 0.0,
    slip_rate: float = 0.0,
    misjudge_rate: float = 0.0,
    in_words: bool = False,
    verdicts: bool = True,
    restate: bool = False,
) -> str:
    """A search as text, from behind an opened `<think>` up to `</answer>`: attempts, each judged, then an answer.

    Attempts are taken in a fixed order from a random start: a trace teaches where a search goes next, and different
    traces of one puzzle differ. With every rate at 0 the searcher is perfect: it goes on until an attempt hits the
    target or `max_attempts` are spent. In shorthand each line is one attempt, e.g. `9-1=8,8/4=2 no`. In words a line
    `Let me try 9-1=8:` has the equations that some attempts begin with, and each of these attempts has a line with its
    last equation below it: `8/4=2, no`.

    Args:
        numbers, target, rng: the puzzle, and the source of every random choice.
        max_attempts: attempts after which the searcher answers with the last one.
        max_value: attempts with a larger intermediate value are not considered.
        guess_rate: probability of answering at once, without any search.
        give_up_rate: probability, after each failed attempt, of answering with it all the same.
        slip_rate: probability for each attempt that its last equation is written with a wrong result nearby.
        misjudge_rate: probability for each attempt that its yes or no is the wrong one.
        in_words: whether to write for a model that knows English, rather than in shorthand.
        verdicts: whether a yes or no is written behind each attempt; one attempt without is a plain answer, worked out.
        restate: whether the target is written behind each result, as in `8/4=2:3`, where a verdict is easier to learn.
    """
    attempts = list(_attempts(tuple((str(number), number) for number in numbers), max_value))
    if not attempts:  # no two numbers combine within max_value
        return f"</think>\n<answer>{'+'.join(map(str, numbers))}</answer>"
    start = rng.randrange(len(attempts))
    attempt = attempts[start]
    search: list[tuple[list[str], str]] = []  # equations as they are written, and what is said of them
    if rng.random() >= guess_rate:
        for attempt in itertools.islice(attempts[start:] + attempts[:start], max_attempts):
            equations, value = [*attempt.equations], attempt.value
            if rng.random() < slip_rate:
                value = min(max(1, value + rng.choice((-2, -1, 1, 2))), max_value)
                equations[-1] = equations[-1].split("=")[0] + f"={value}"
            equations[-1] += f":{target}" * restate
            is_right = (value == target) != (rng.random() < misjudge_rate)
            search.append((equations, (" yes" if is_right else " no") if verdicts else ""))
            if is_right or rng.random() < give_up_rate:
                break
    thoughts = _words(search) if in_words else "".join(f"{','.join(said)}{verdict}\n" for said, verdict in search)
    return f"{thoughts}</think>\n<answer>{attempt.expression}</answer>"


def _words(search: list[tuple[list[str], str]]) -> str:
    lines = []
    for beginning, group in itertools.groupby(search, key=lambda judged: judged[0][:-1]):
        lines += [f"Let me try {', '.join(beginning)}:\n"] if beginning else []
        lines += [f"{equations[-1]}{verdict and ','}{verdict}\n" for equations, verdict in group]
    return "".join(lines)


def _attempts(terms: tuple[tuple[str, int], ...], max_value: int, equations: tuple[str, ...] = ()) -> Iterator[Attempt]:
    """Every way of combining `terms` (expression, value) in which each value is an integer in 1..max_value."""
    if len(terms) == 1:
        yield Attempt(equations, *terms[0])
        return
    for i, j in itertools.combinations(range(len(terms)), 2):
        rest = tuple(term for k, term in enumerate(terms) if k not in (i, j))
        for left, operator, right, value in _combinations(terms[i], terms[j]):
            if 1 <= value <= max_value:
                equation = f"{left[1]}{operator}{right[1]}={value}"
                expression = f"{_wrapped(left[0])}{operator}{_wrapped(right[0])}"
                yield from _attempts(((expression, value), *rest), max_value, (*equations, equation))


def _combinations(a: tuple[str, int], b: tuple[str, int]) -> Iterator[tuple]:
    """The four operations on two terms, the larger one first where the order matters; only whole results."""
    large, small = (a, b) if a[1] >= b[1] else (b, a)
    yield a, "+", b, a[1] + b[1]
    yield large, "-", small, large[1] - small[1]
    yield a, "*", b, a[1] * b[1]
    if small[1] and large[1] % small[1] == 0:
        yield large, "/", small, large[1] // small[1]


def _wrapped(expression: str) -> str:
    return expression if expression.isdigit() else f"({expression})"
