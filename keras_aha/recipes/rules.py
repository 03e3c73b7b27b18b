"""Conditions that a recipe's keys must meet: fields of dataclasses, with the condition in words for errors."""

import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field

WORD = re.compile(r"[\w-]+")  # what can be a part of a column's name
section = dataclass(frozen=True, kw_only=True)


def rule(words: str, holds: Callable, default):
    """A key with a condition. Both numbers of a pair must meet it; None always does, if the type has it."""
    return field(default=default, metadata={"words": words, "holds": holds})


def at_least(bound: float, default=MISSING):
    """A key from `bound` on."""
    return rule(f"at least {bound}", lambda number: number >= bound, default)


def from_to(least: int, most: int, default: int):
    """A key between two bounds, which are in."""
    return rule(f"from {least} to {most}", lambda number: least <= number <= most, default)


def above_zero(default=MISSING):
    """A key above 0."""
    return rule("above 0", lambda number: number > 0, default)


def choices(*words: str) -> str:
    """Words to choose from, as an error says them."""
    return " or ".join(f'"{word}"' for word in words)


def one_of(*words: str):
    """A key that takes one of a few words; the first is the default."""
    return rule(choices(*words), words.__contains__, words[0])
