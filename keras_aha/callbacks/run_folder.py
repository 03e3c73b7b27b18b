"""What a run has written, taken back to an epoch."""

import csv
import io
import json
import os
from pathlib import Path

from keras_aha.files import write_whole

from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

CHECKPOINTS = "saved_epochs"  # the folder; Jupyter's file browser cannot open one that is called `checkpoints`,
_OLD_CHECKPOINTS = "checkpoints"  # as it was in earlier runs, which are read and go on there
_EVENTS = ("train", "validation", "completions", "hyper_parameters")  # the folders of TensorBoard's events
BEFORE, AFTER = "held_out_before.jsonl", "held_out_after.jsonl"
BEHAVIOUR_RATES = "behaviours.csv"
HISTORY = "history.csv"
COMPLETIONS = "completions.jsonl"
FINDINGS = "findings.jsonl"
SUMMARY = "summary.json"


def checkpoint_folder(log_dir: str | os.PathLike) -> Path:
    """The folder of a run's checkpoints, each in one that is called by its epoch; it may be missing."""
    folder, old = Path(log_dir, CHECKPOINTS), Path(log_dir, _OLD_CHECKPOINTS)
    return old if not folder.exists() and any(old.glob("[0-9]*")) else folder


def rewind(log_dir: str | os.PathLike, epochs: int) -> None:
    """Takes the files of a run back to the end of an epoch, so that what is trained again is not there twice.

    Rows of `history.csv`, lines of `completions.jsonl` and `findings.jsonl` and events of TensorBoard are left out if
    they are of later epochs, or were not written to their end. Files may be missing. No others are touched:
    what lies deeper in the folder may be another run's.

    Args:
        log_dir: the run's.
        epochs: how many have been trained.

    Raises:
        ValueError: if a line that was written to its end does not say of which epoch it is.
    """
    log_dir = Path(log_dir)
    if (log_dir / HISTORY).exists():
        _rewind_history(log_dir / HISTORY, epochs)
    for path in (log_dir / COMPLETIONS, log_dir / FINDINGS):
        if path.exists():
            write_whole(path, b"".join(line for epoch, line in complete_lines(path) if epoch <= epochs))
    for name in _EVENTS:
        for path in (log_dir / name).glob("events.out.tfevents.*"):
            _rewind_events(path, epochs)


def _rewind_history(path: Path, epochs: int) -> None:
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8", errors="replace"))))
    rows = [row for row in rows if None not in row.values() and row["epoch"].isdecimal()]
    rows = [row for row in rows if 0 < int(row["epoch"]) <= epochs]
    if not rows:
        path.unlink()  # and the next one begins anew
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def complete_lines(path: Path) -> list[tuple[int, bytes]]:
    """`(epoch, line)` of each line of a file that was written to its end.

    Raises:
        ValueError: if such a line does not say of which epoch it is.
    """
    lines = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            continue
        try:
            lines.append((int(json.loads(line)["epoch"]), line))
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
