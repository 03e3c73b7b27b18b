"""Problems of a file: some to train on, the others held out."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from keras_aha.tasks.seeding import is_held_out, stable_hash


def split_rows(
    rows: Iterable[Any], canonical: Callable[[Any], tuple], seed: int, held_out: Iterable[Any] | None = None
) -> tuple[list, list]:
    """Shuffles problems and holds a quarter of the puzzles out, the same ones whatever the seed.

    Args:
        rows: the problems.
        canonical: problem → what makes two problems the same puzzle, see `DrawnTask.canonical`.
        seed: of the order.
        held_out: problems to be held out instead; those of `rows` that are the same are not trained on.

    Returns:
        The problems to train on, and the held-out ones, each puzzle once.
    """
    rows = list(rows)
    random.Random(stable_hash("rows", seed)).shuffle(rows)
    if held_out is None:
        held_out = (row for row in rows if is_held_out(*canonical(row)))
    kept = {canonical(row): row for row in held_out}
    return [row for row in rows if canonical(row) not in kept], list(kept.values())
