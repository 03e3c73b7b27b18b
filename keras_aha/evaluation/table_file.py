"""The tables of an evaluation as a file of JSON lines: a completion a line."""

import json
import os

from keras_aha.evaluation.tables import check_columns, other_rewards
from keras_aha.files import json_lines, read_lines, write_whole

import pandas as pd


def write_tables(path: str | os.PathLike, sampled: pd.DataFrame, greedy: pd.DataFrame) -> None:
    """Writes two tables (see `tables`), whole or not at all; `greedy` in each line says which of them it is of."""
    records = [*sampled.assign(greedy=False).to_dict("records"), *greedy.assign(greedy=True).to_dict("records")]
    write_whole(path, json_lines(records))


def read_tables(path: str | os.PathLike) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Reads the two tables that `write_tables` wrote.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it holds something else.
    """
    try:
        table = pd.DataFrame(map(json.loads, read_lines(path)))
        check_columns(table, ["text", "correct", "greedy"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"The file holds no evaluated completions. Received: {str(path)!r}, {error!r}") from error
    sampled, greedy = (table[table["greedy"] == is_greedy].drop(columns="greedy") for is_greedy in (False, True))
    return sampled, greedy.drop(columns=other_rewards(greedy))  # which greedy completions are not given
