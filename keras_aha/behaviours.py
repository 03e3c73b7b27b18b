"""Counts what a completion's thinking does: tries, checks, turns back."""

from __future__ import annotations

import re
from dataclasses import dataclass

_OPERATORS = "-+*/\u00d7\u00f7\u2212"
_ARITHMETIC = f"0123456789.() \t{_OPERATORS}"
_OPERATION = re.compile(rf"[0-9)][{re.escape(_OPERATORS)}][-\u2212(]*[0-9]")
_RESULT = re.compile(r"[ \t]*(?:[-\u2212][ \t]*)?[0-9]+(?:[./][0-9]+)?")
_OUTCOME = re.compile(
    r"\b(?:(?P<failed>no|nope|not|wrong|incorrect|fail|fails|failed|too|isn['\u2019]t|doesn['\u2019]t|didn['\u2019]t)"
    r"|yes|correct|(?<!all )right|works|found|solved)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Behaviours:
    """How often a completion did what searching takes.

    Attributes:
        attempts: lines of the thinking that hold an equation such as `9-1=8`.
        checks: attempts after which an outcome is stated, such as `yes`, `no`, `not 10`, `correct`.
        backtracks: attempts that failed by the stated outcome and were followed by another.
    """

    attempts: int
    checks: int
    backtracks: int


def count_behaviours(text: str) -> Behaviours:
    """Counts the behaviours in the thinking of a completion: all that precedes `</think>` or the first `<answer>`.

    An outcome belongs to the attempt before it, up to the equation of the next; where several are stated the first
    one counts. Words are English.
    """
    thinking = text.partition("</think>")[0].partition("<answer>")[0]
    remarks: list[list[str]] = []  # what is said after each attempt
    for line in thinking.splitlines():
        before, after, is_attempt = _split_at_equations(line) if "=" in line else (line, "", False)
        if remarks:
            remarks[-1].append(before)
        if is_attempt:
            remarks.append([after])
    outcomes = [_OUTCOME.search("\n".join(remark)) for remark in remarks]
    return Behaviours(
        attempts=len(outcomes),
        checks=sum(outcome is not None for outcome in outcomes),
        backtracks=sum(outcome is not None and outcome["failed"] is not None for outcome in outcomes[:-1]),
    )


def _split_at_equations(line: str) -> tuple[str, str, bool]:
    """Returns what stands before the line's first equation and after its last, and whether it has any."""
    pieces = line.split("=")
    before = after = None
    for left, right in zip(pieces, pieces[1:], strict=False):
        result = _RESULT.match(right)  # first, because it is cheap and most often decides
        if result is None:
            continue
        words = left.rstrip(_ARITHMETIC)
        if _OPERATION.search(re.sub(r"[ \t]", "", left[len(words) :])):
            before = words if before is None else before
            after = right[result.end() :]
    return (line, "", False) if before is None else (before, after, True)
