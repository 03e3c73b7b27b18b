"""Rows of a user's own files: JSON lines, JSON, CSV, TSV or Parquet; every value as text."""

from __future__ import annotations

import csv
import functools
import itertools
import json
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from keras_aha.files import local_path, read_text
from keras_aha.names import suggestion

_CHUNK = 2000  # rows that are Python objects at a time
_LONGEST_CELL = 2**31 - 1  # characters in CSV; Python's own limit is 131,072


class RowTable:
    """Rows of one file or several, in order, about as compact as the files; see `read_rows`.

    Args:
        table: a `pyarrow.Table` of texts.
        numbers: of each row, in its own file.
        files: index of its first row → the file.
    """

    def __init__(self, table, numbers: Sequence[int], files: dict[int, Path]):
        self.table = table
        self._numbers = numbers
        self._files = files

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> dict[str, str | None]:
        """Row `index`, from 0: column → text, or `None` if the row has none."""
        return {name: self.table.column(name)[index].as_py() for name in self.table.column_names}

    def __iter__(self) -> Iterator[dict[str, str | None]]:
        for batch in self.table.to_batches():
            yield from batch.to_pylist()

    def place(self, index: int) -> str:
        """Where row `index` stands, as an error begins: `Line 7 of train.jsonl` or `Row 7 of train.parquet`, from 1."""
        path = next(path for start, path in reversed(self._files.items()) if start <= index)
        return _place(path, self._numbers[index])


def read_rows(
    files: str | PathLike | Sequence[str | PathLike], key: str, columns: Sequence[str], optional: Sequence[str] = ()
) -> RowTable:
    """Reads columns of files whose names end in `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet`.

    Text is UTF-8 with or without a byte-order mark, its lines end in `\\n` or `\\r\\n`, and blank ones are left out. A
    `.json` file holds a list of objects, or JSON lines. What is no text is written as JSON: `7`, `true`, `["a", "b"]`.

    Args:
        files: one, several, or a folder, whose files of these kinds are read in the order of their names; all of them
            of one kind.
        key: the argument's name, as errors show it.
        columns: that every row must have; others of the file are left out.
        optional: columns that some rows may not have.

    Raises:
        ValueError: if there is no such file, or one cannot be read or is empty, or a row is none; it is named.
    """
    import pyarrow  # and no earlier, as tasks need the standard library only

    names = dict.fromkeys([*columns, *optional])
    schema = pyarrow.schema([(name, pyarrow.large_string()) for name in names])
    batches, numbers, starts, rows = [], array("I"), {}, []
    for path in row_files(files, key):
        starts[len(numbers)] = path
        try:
            for number, row in _READERS[path.suffix.lower()](path, names):
                rows.append(_texts(row, names, columns, _place(path, number)))
                numbers.append(number)
                if len(rows) == _CHUNK:
                    batches.append(pyarrow.RecordBatch.from_pylist(rows, schema))
                    rows.clear()
        except (OSError, RecursionError, pyarrow.ArrowException) as error:
            reason = (str(error).strip() or type(error).__name__).partition("\n")[0].rstrip(".")
            raise ValueError(f"{path.name} cannot be read: {reason}. Received: {key}={str(path)!r}") from error
        except ValueError as error:
            raise ValueError(f"{error}. Received: {key}={str(path)!r}") from error
        if len(numbers) in starts:
            raise ValueError(f"{path.name} must have a row or more. Received: {key}={str(path)!r}")
    batches.append(pyarrow.RecordBatch.from_pylist(rows, schema))
    return RowTable(pyarrow.Table.from_batches(batches), numbers, starts)


def row_files(files: str | PathLike | Sequence[str | PathLike], key: str) -> list[Path]:
    """The files that `read_rows` reads, in order; ValueError unless they are of one kind."""
    paths = []
    for path in [files] if isinstance(files, str | PathLike) else files:
        path = local_path(path, key)
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        paths += [file for file in inside if file == path or file.suffix.lower() in _READERS and file.name[0] != "."]
    kinds = {path.suffix.lower() for path in paths}
    if len(kinds) != 1 or not kinds <= _READERS.keys():
        raise ValueError(
            f"`{key}` must be a file, a list of files, or a folder with files, all of one kind: {', '.join(_READERS)}. "
            f"Received: {key}={str(files)!r}, of the kinds {sorted(kinds)}"
        )
    return paths


def _place(path: Path, number: int) -> str:
    return f"{'Line' if path.suffix.lower() in ('.csv', '.jsonl', '.tsv') else 'Row'} {number} of {path.name}"


def _texts(row: Any, names: Iterable[str], needed: Sequence[str], place: str) -> dict[str, str | None]:
    """The columns `names` of a row; ValueError if it is no row, or lacks one that is `needed`."""
    if not isinstance(row, dict):
        raise ValueError(f"{place} must be an object, with a value for each column: {json.dumps(row)[:200]}")
    texts = {name: _text(row.get(name)) for name in names}
    for name in needed:
        if texts[name] is None:
            near = "" if name in row else suggestion(name, map(str, row), "`{}`")
            raise ValueError(f"{place} has no `{name}`{near}: {json.dumps(row, default=str)[:200]}")
    for name, text in texts.items():
        try:
            text is None or text.isascii() or text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{place} has a lone surrogate in `{name}`, which no vocabulary has: {text[:200]!a}"
            ) from error
    return texts


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str) or value != value:  # NaN: a gap in a table
        return value if isinstance(value, str) else None
    is_json = isinstance(value, int | float | list | dict)
    return json.dumps(value, ensure_ascii=False, default=str) if is_json else str(value)


# === Kinds of files: each reader yields (number, row) ===


def _lines(path: Path) -> Iterator[str]:
    """One after the other, as `files.read_lines` has them, of a file that may be larger than the memory."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{_place(path, number)} must be saved in UTF-8: {error.reason}") from error


def _read_json_lines(path: Path, _names=()) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{_place(path, number)} is not JSON, {error}: {line[:200]!a}") from error


def _read_json(path: Path, _names) -> Iterator[tuple[int, Any]]:
    """A list is read row by row, as Python's objects take many times the room of their text."""
    text = read_text(path)
    if not text.lstrip().startswith("["):
        yield from _read_json_lines(path)
        return
    blank, decoder = re.compile("[ \t\r\n]*"), json.JSONDecoder()
    at, number, mark = blank.match(text, text.index("[") + 1).end(), 0, ","
    while mark == "," and not (number == 0 and text[at : at + 1] == "]"):
        number += 1
        try:
            row, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{_place(path, number)} is not JSON, {error}: {text[at : at + 200]!a}") from error
        yield number, row
        at = blank.match(text, at).end()
        mark, at = text[at : at + 1], blank.match(text, at + 1).end()
    if number and (mark != "]" or at < len(text)):
        raise ValueError(
            f"{_place(path, number)} is followed by neither , nor the end of the list: {text[at:][:200]!a}"
        )


def _read_csv(path: Path, _names, delimiter: str = ",") -> Iterator[tuple[int, dict[str, str]]]:
    csv.field_size_limit(_LONGEST_CELL)
    reader, header, number = csv.reader(_lines(path), delimiter=delimiter, strict=True), None, 1
    try:
        for cells in reader:
            if header is None and any(cells):
                header = [cell.strip() for cell in cells]
                if len({*header} - {""}) < len(header) - header.count(""):
                    raise ValueError(f"{path.name} must have a name of its own for each column: {str(cells)[:200]}")
            elif any(map(str.strip, cells)):
                if len(cells) != len(header):
                    place = _place(path, number)
                    raise ValueError(
                        f"{place} has {len(cells)} cells, and the header {len(header)}: {str(cells)[:200]}"
                    )
                yield number, dict(zip(header, cells, strict=True))
            number = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{_place(path, number)} is not CSV, {error}") from error


def _read_parquet(path: Path, names) -> Iterator[tuple[int, dict[str, Any]]]:
    from pyarrow import parquet

    file = parquet.ParquetFile(path)
    columns = list(names) if set(names) <= set(file.schema_arrow.names) else None  # all, to say what there is
    numbers = itertools.count(1)
    for batch in file.iter_batches(_CHUNK, columns=columns):
        yield from zip(numbers, batch.to_pylist(), strict=False)


_READERS = {".jsonl": _read_json_lines, ".json": _read_json, ".csv": _read_csv}
_READERS |= {".tsv": functools.partial(_read_csv, delimiter="\t"), ".parquet": _read_parquet}
