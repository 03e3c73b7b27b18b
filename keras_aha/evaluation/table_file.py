"""The tables of an evaluation as a file of JSON lines: a completion a line."""

import json
import os
from pathlib import Path

from keras_aha.evaluation.tables import with_behaviours
from keras_aha.files import write_whole

import pandas as pd


def write_tables(path: str | os.PathLike, sampled: pd.DataFrame, greedy: pd.DataFrame) -> None:
    """Writes two tables (see `evaluation`), whole or not at all; `greedy` tells in each line which one it is of."""
    records = [
        record | {"greedy": is_greedy}
        for is_greedy, table in ((False, sampled), (True, greedy))
        for record in table.to_dict("records")
    ]
    write_whole(path, "".join(json.dumps(record) + "\n" for record in records))


def read_tables(path: str | os.PathLike) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Reads what `write_tables` wrote; behaviours are counted again, as an older version may have counted fewer.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it holds something else.
    """
    try:
        table = pd.DataFrame(json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines())
        table = with_behaviours(table)
        sampled, greedy = (table[table["greedy"] == is_greedy].drop(columns="greedy") for is_greedy in (False, True))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"The file holds no evaluated completions. Received: {str(path)!r}, {error!r}") from error
    return sampled, greedy
