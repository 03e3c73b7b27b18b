"""Worked examples for the prompt of a base model, which takes over their form: R1-Zero's start for a small model."""

from collections.abc import Sequence
from typing import NamedTuple


class Example(NamedTuple):
    """A puzzle that is never asked, what is thought about it, and the answer."""

    numbers: tuple[int, ...]
    target: int
    thoughts: tuple[str, ...]
    answer: str


QUESTION = "Numbers: {numbers}. Target: {target}.\n"
# By how many numbers a puzzle has: the answer at the third try, at the first, at the second. The order decides which
# operations a base model takes: with the product last it multiplies most puzzles (LOG.md, "An aha?").
EXAMPLES = {
    2: (
        Example((3, 12), 36, ("3+12=15, no", "12-3=9, no", "12*3=36, yes"), "12*3"),
        Example((6, 19), 13, ("19-6=13, yes",), "19-6"),
        Example((8, 15), 23, ("15-8=7, no", "8+15=23, yes"), "8+15"),
    ),
    3: (
        Example((8, 1, 5), 12, ("8-1=7, 7-5=2, no", "8*1=8, 8+5=13, no", "8-1=7, 7+5=12, yes"), "8-1+5"),
        Example((2, 7, 4), 10, ("7*2=14, 14-4=10, yes",), "7*2-4"),
        Example((3, 5, 6), 14, ("6-3=3, 3+5=8, no", "3+5=8, 8+6=14, yes"), "3+5+6"),
    ),
}
EXAMPLE_TEMPLATES = {"examples": QUESTION, "thinking_examples": QUESTION + "<think>\n"}
EXAMPLE_PUZZLES = frozenset((tuple(sorted(x.numbers)), x.target) for examples in EXAMPLES.values() for x in examples)


def worked_examples(count: int, thinking: bool) -> str:
    """Three puzzles as they are asked and answered, of two numbers if `count` is 2, else of three."""
    return "".join(_written(example, thinking) for example in EXAMPLES[2 if count == 2 else 3])


def _written(example: Example, thinking: bool) -> str:
    question = QUESTION.format(numbers=shown(example.numbers), target=example.target)
    thoughts = "\n".join(("<think>", *example.thoughts, "</think>\n")) if thinking else ""
    return f"{question}{thoughts}<answer>{example.answer}</answer>\n\n"


def shown(numbers: Sequence[int]) -> str:
    """The numbers as a prompt shows them."""
    return " ".join(map(str, numbers))
