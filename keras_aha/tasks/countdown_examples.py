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
EXAMPLE_TEMPLATES = {"examples": QUESTION, "thinking_examples": QUESTION + "<think>\n"}
_THREE = (
    Example((8, 1, 5), 12, ("8-1=7, 7-5=2, no", "8*1=8, 8+5=13, no", "8-1=7, 7+5=12, yes"), "8-1+5"),
    Example((2, 7, 4), 10, ("7*2=14, 14-4=10, yes",), "7*2-4"),
    Example((3, 5, 6), 14, ("6-3=3, 3+5=8, no", "3+5=8, 8+6=14, yes"), "3+5+6"),
)
# Template → by how many numbers a puzzle has. The order decides which operations a base model takes: with the product
# last it multiplies most puzzles (LOG.md, "An aha?"). Thoughts are of one digit, which small models reckon best.
EXAMPLES = {
    "examples": {
        2: (
            Example((3, 12), 36, (), "12*3"),
            Example((6, 19), 13, (), "19-6"),
            Example((8, 15), 23, (), "8+15"),
        ),
        3: _THREE,
    },
    "thinking_examples": {
        2: (
            Example((2, 9), 18, ("2+9=11, no", "9-2=7, no", "9*2=18, yes"), "9*2"),
            Example((3, 5), 8, ("5-3=2, no", "3+5=8, yes"), "3+5"),
            Example((4, 7), 3, ("4+7=11, no", "7-4=3, yes"), "7-4"),
        ),
        3: _THREE,
    },
}


def is_example(template: str, numbers: Sequence[int], target: int) -> bool:
    """Whether the prompts of a template show this puzzle, solved."""
    examples = (example for some in EXAMPLES.get(template, {}).values() for example in some)
    return any((sorted(numbers), target) == (sorted(example.numbers), example.target) for example in examples)


def worked_examples(template: str, count: int) -> str:
    """Three puzzles as they are asked and answered, of two numbers if `count` is 2, else of three."""
    thinking = template == "thinking_examples"
    return "".join(_written(example, thinking) for example in EXAMPLES[template][2 if count == 2 else 3])


def _written(example: Example, thinking: bool) -> str:
    question = QUESTION.format(numbers=shown(example.numbers), target=example.target)
    thoughts = "\n".join(("<think>", *example.thoughts, "</think>\n")) if thinking else ""
    return f"{question}{thoughts}<answer>{example.answer}</answer>\n\n"


def shown(numbers: Sequence[int]) -> str:
    """The numbers as a prompt shows them."""
    return " ".join(map(str, numbers))
