"""What a run has written, taken back to an epoch."""

import csv
import io
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from keras_aha.files import local_path, read_text, write_whole

from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

CHECKPOINTS = "saved_epochs"  # the folder; Jupyter's file browser cannot open one that is called `checkpoints`,
_OLD_CHECKPOINTS = "checkpoints"  # as it was in earlier runs, which are read and go on there
_EVENTS = ("train", "validation", "completions", "doctor", "hyper_parameters")  # the folders of TensorBoard's events
BEFORE, AFTER = "held_out_before.jsonl", "held_out_after.jsonl"
BEHAVIOUR_RATES = "behaviours.csv"
HISTORY = "history.csv"
COMPLETIONS = "completions.jsonl"
FINDINGS = "findings.jsonl"
SUMMARY = "summary.json"
_LONGEST_ROW = 100_000  # characters; `csv` refuses a line of garbage that is longer


def checkpoint_folder(log_dir: str | os.PathLike) -> Path:
    """The folder of a run's checkpoints, each in one that is called by its epoch; it may be missing."""
    folder, old = Path(log_dir, CHECKPOINTS), Path(log_dir, _OLD_CHECKPOINTS)
    return old if not folder.exists() and any(old.glob("[0-9]*")) else folder


def check_no_pattern(log_dir: str | os.PathLike, name: str = "log_dir") -> None:
    """Raises ValueError for a path in which orbax, as it writes a checkpoint, would see a pattern and not a name."""
    if re.search(r"[*?[]", os.path.abspath(log_dir)):
        raise ValueError(f"`{name}` must be a path without *, ? and [. Received: {name}={str(log_dir)!r}")


def rewind(log_dir: str | os.PathLike, epochs: int) -> None:
    """Takes the files of a run back to its first `epochs`, so that what is trained again is not there twice.

    Rows of `history.csv`, lines of `completions.jsonl` and `findings.jsonl` and events of TensorBoard are left out if
    they are of later epochs, or were not written to their end. Files may be missing. No others are touched:
    what lies deeper in the folder may be another run's.

    Raises:
        ValueError: if a line that was written to its end does not say of which epoch it is.
    """
    log_dir = local_path(log_dir, "log_dir")
    if (log_dir / HISTORY).exists():
        _rewind_history(log_dir / HISTORY, epochs)
    for path in (log_dir / COMPLETIONS, log_dir / FINDINGS):
        if path.exists():
            lines = [line for record, line in complete_lines(path) if int(record["epoch"]) <= epochs]
            write_whole(path, b"".join(lines))
    for name in _EVENTS:
        for path in (log_dir / name).glob("events.out.tfevents.*"):
            _rewind_events(path, epochs)


def _rewind_history(path: Path, epochs: int) -> None:
    rows = [row for row in history_rows(path) if row["epoch"].isdecimal() and 0 < int(row["epoch"]) <= epochs]
    if not rows:
        path.unlink()  # and the next one begins anew
        return
    write_rows(path, [rows[0], *(row.values() for row in rows)])


def write_rows(path: Path, rows: Iterable[Iterable[str]]) -> None:
    """Writes a CSV file, its header the first row, whole or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_whole(path, text.getvalue())


def history_rows(path: Path) -> list[dict[str, str]]:
    """The rows of `history.csv`, a line each, but for those with other columns than the first line names."""
    lines = read_text(path, errors="replace").replace("\r", "").split("\n")
    header, *rows = [next(csv.reader([line[:_LONGEST_ROW]]), []) for line in lines]
    return [dict(zip(header, row, strict=True)) for row in rows if "epoch" in header and len(row) == len(header)]


def complete_lines(path: Path) -> list[tuple[dict, bytes]]:
    """`(record, line)` of each line of a file of JSON lines that was written to its end; only `\\n` ends one.

    Raises:
        ValueError: if such a line does not say of which epoch it is.
    """
    lines = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line)
            int(record["epoch"])
            lines.append((record, line + b"\n"))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"Line {number} of {path} cannot be read: remove that line, which nothing else depends on, and go on. "
                f"Received: {error!r}"
            ) from error
    return lines


def _rewind_events(path: Path, epochs: int) -> None:
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for event in RawEventFileLoader(str(path)).Load():  # up to one that was not written to its end
        if Event.FromString(event).step < epochs:
            writer.write(event)
    if buffer.getvalue() != path.read_bytes():
        write_whole(path, buffer.getvalue())
