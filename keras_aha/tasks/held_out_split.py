"""The held-out split: a quarter of all puzzles, by a hash that is the same in every process and on every machine."""

import random
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any


def stable_hash(*parts) -> int:
    """64 bits that depend on `repr(parts)` alone; Python's own `hash` of text changes from process to process."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "big")


def is_held_out(*canonical) -> bool:
    """Whether a puzzle belongs to the quarter that is never trained on; `canonical` makes problems the same puzzle.

    A quarter and not less: Countdown with three numbers up to 20 has 4,000 such puzzles, with an eighth only 2,000.
    """
    return stable_hash("held-out", *canonical) % 4 == 0


def split_rows(
    rows: Iterable[Any], canonical: Callable[[Any], tuple], seed: int, held_out: Iterable[Any] | None = None
) -> tuple[list, list]:
    """Shuffles problems and parts them: those to train on, and the held-out ones, each puzzle once.

    Args:
        rows: the problems.
        canonical: problem → what makes two problems the same puzzle, see `DrawnTask.canonical`.
        seed: of the order; it does not change what is held out.
        held_out: problems to hold out instead of the quarter; the same puzzles in `rows` are not trained on.
    """
    rows = list(rows)
    random.Random(stable_hash("rows", seed)).shuffle(rows)
    if held_out is None:
        held_out = (row for row in rows if is_held_out(*canonical(row)))
    held_out = {canonical(row): row for row in held_out}
    return [row for row in rows if canonical(row) not in held_out], list(held_out.values())
