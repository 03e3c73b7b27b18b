"""Reads Countdown puzzles from a CSV or Parquet file."""

import io
import re
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from keras_aha.files import local_path, read_text
from keras_aha.tasks.countdown_solver import MAX_NUMBERS

_LIST = re.compile(r"\[\s*([0-9]{1,20}(?:[\s,]+[0-9]{1,20})*)[\s,]*\]|([0-9]{1,20}(?:[\s,]+[0-9]{1,20})*)")
_INTEGER = re.compile(r"\s*-?[0-9]{1,20}\s*")


def read_puzzles(path: str | PathLike) -> list[tuple[tuple[int, ...], int]]:
    """Reads puzzles in TinyZero's form (https://github.com/Jiayi-Pan/TinyZero), and checks every row.

    Args:
        path: a `.csv` or `.parquet` file. Column `nums` holds a list of 1 to 6 integers from 0, in a CSV file a text
            such as `[44 19 35]` or `[44, 19, 35]`; column `target` holds an integer. Other columns are ignored.

    Returns:
        One pair of numbers and target for each row.

    Raises:
        ValueError: if the file cannot be read, lacks a column or a row, or a row is not such a puzzle. The row is
            named, counted from 1 after the header.
    """
    table = _read_table(local_path(path, "puzzles"))
    if not {"nums", "target"} <= set(table.columns):
        raise ValueError(f"A puzzle file needs the columns nums and target. Received: columns={list(table.columns)}")
    if not len(table):
        raise ValueError(f"The puzzle file holds no puzzle. Received: puzzles={str(path)!r}")
    rows = zip(table["nums"].tolist(), table["target"].tolist(), strict=True)
    return [_read_row(row, nums, target) for row, (nums, target) in enumerate(rows, start=1)]


def _read_table(path: Path):
    import pandas  # a second of start-up that tasks without a file do not pay

    if path.suffix.lower() not in (".csv", ".parquet"):
        raise ValueError(f"A puzzle file is a .csv or a .parquet file. Received: puzzles={str(path)!r}")
    try:
        if path.suffix.lower() == ".parquet":
            return pandas.read_parquet(path)
        # As text: else 24.0 and 1e3 would pass for integers, and a gap in one row would make floats of all.
        text = io.StringIO(read_text(path).replace("\r\n", "\n"))
        return pandas.read_csv(text, dtype=str, keep_default_na=False, lineterminator="\n")
    except (OSError, ValueError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).partition("\n")[0].rstrip(".")
        raise ValueError(f"The puzzle file cannot be read: {reason}. Received: puzzles={str(path)!r}") from error


def _read_row(row: int, nums, target) -> tuple[tuple[int, ...], int]:
    text = nums if isinstance(nums, str) else " ".join(map(str, nums)) if isinstance(nums, Iterable) else ""
    numbers = tuple(map(int, re.findall("[0-9]+", text))) if _LIST.fullmatch(text.strip()) else ()
    if not 1 <= len(numbers) <= MAX_NUMBERS:
        raise ValueError(
            f"Row {row} of the puzzle file needs 1 to {MAX_NUMBERS} integers from 0 in nums. Received: nums={nums!r}"
        )
    if not _INTEGER.fullmatch(str(target)):
        raise ValueError(f"Row {row} of the puzzle file needs an integer in target. Received: target={target!r}")
    return numbers, int(target)
