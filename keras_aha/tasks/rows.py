"""Problems of a file: some to train on, the others held out."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from keras_aha.tasks.seeding import is_held_out, stable_hash


def split_rows(rows: Iterable[Any], canonical: Callable[[Any], tuple], seed: int) -> tuple[list, list]:
    """Shuffles problems and holds a quarter of the puzzles out, the same ones whatever the seed.

    Args:
        rows: the problems.
        canonical: problem → what makes two problems the same puzzle, see `DrawnTask.canonical`.
        seed: of the order.

    Returns:
        The problems to train on, and the held-out ones, each puzzle once.
    """
    rows = list(rows)
    random.Random(stable_hash("rows", seed)).shuffle(rows)
    training = [row for row in rows if not is_held_out(*canonical(row))]
    held_out = {canonical(row): row for row in rows if is_held_out(*canonical(row))}
    return training, list(held_out.values())
