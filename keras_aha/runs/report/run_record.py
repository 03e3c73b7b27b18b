"""`RunRecord`: what a run's folder tells, read from its files."""

import dataclasses
import json
import os
from pathlib import Path

from keras_aha.callbacks import run_folder
from keras_aha.callbacks.run_folder import AFTER, BEFORE, BEHAVIOUR_RATES, COMPLETIONS, FINDINGS, HISTORY, SUMMARY
from keras_aha.evaluation.table_file import read_tables
from keras_aha.files import local_path
from keras_aha.recipes.recipe import RECIPE, Recipe
from keras_aha.runs.check_files import best_epoch, finished_epochs

import pandas as pd
from tensorboard.backend.event_processing.event_accumulator import TENSORS, EventAccumulator
from tensorboard.util import tensor_util

_EVENTS, _VERDICT = "train", "verdict/"


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """A run, finished or not, of which at least one epoch has been trained."""

    log_dir: Path
    recipe: Recipe  # the run's own
    history: pd.DataFrame  # `history.csv`, one row an epoch
    verdicts: pd.DataFrame  # shares of completions by `epoch`, from 1, one column a verdict; of TensorBoard's events
    completions: list[dict]  # `completions.jsonl`, one a completion
    before: pd.DataFrame  # held-out problems before training, sampled (`held_out_before.jsonl`)
    after: pd.DataFrame | None  # the same after it; `None` if the run has not finished
    rates: pd.DataFrame | None  # `behaviours.csv`
    summary: dict | None  # `summary.json`
    findings: list[dict]  # `findings.jsonl`, one a finding of the doctor
    epoch: int | None = None  # up to which all of it is, if the run has gone on

    @classmethod
    def load(cls, log_dir: str | os.PathLike, epoch: int | str = "last") -> "RunRecord":
        """Reads a run's folder, as it was after an epoch: a number, `"best"`, see `best_epoch`, or `"last"`.

        Raises:
            ValueError: if it holds no run, none that has finished that epoch, or a file that is damaged.
            OSError: if a file cannot be read.
        """
        log_dir = local_path(log_dir, "log_dir")
        for name in (RECIPE, BEFORE, HISTORY, COMPLETIONS):
            if not (log_dir / name).is_file():
                raise ValueError(
                    f"A report is about a run that has trained one epoch or more; the folder has no "
                    f"{name}. Received: {str(log_dir)!r}"
                )
        recipe = Recipe.load(log_dir / RECIPE)
        finished = finished_epochs(log_dir) == recipe.training.epochs  # fewer if it goes on with more
        record = cls(
            log_dir=log_dir,
            recipe=recipe,
            history=read_history(log_dir / HISTORY),
            verdicts=_read_verdicts(log_dir / _EVENTS),
            completions=_read_lines(log_dir / COMPLETIONS),
            before=read_tables(log_dir / BEFORE)[0],
            after=read_tables(log_dir / AFTER)[0] if finished else None,
            rates=pd.read_csv(log_dir / BEHAVIOUR_RATES) if finished else None,
            summary=json.loads((log_dir / SUMMARY).read_bytes()) if finished else None,
            findings=_read_lines(log_dir / FINDINGS) if (log_dir / FINDINGS).is_file() else [],
        )
        if record.history.empty or not record.completions:
            raise ValueError(f"The run has not finished an epoch. Received: {str(log_dir)!r}")
        return _until(record, best_epoch(log_dir) if epoch == "best" else epoch)


def read_history(path: Path) -> pd.DataFrame:
    """`history.csv`; ValueError if the file is no such thing."""
    try:
        return pd.read_csv(path).astype({"epoch": int, "accuracy": float})
    except (KeyError, ValueError) as error:
        raise ValueError(f"The file holds no history of a run. Received: {str(path)!r}, {error}") from error


def _until(record: RunRecord, epoch: int | str | None) -> RunRecord:
    epochs = record.history["epoch"]
    if epoch in ("last", epochs.iloc[-1]):
        return record
    if epoch not in set(epochs):
        what = "No held-out accuracy is known" if epoch is None else f"Epoch {epoch} was not trained"
        words = f'{what}: `epoch` must be one from 1 to {epochs.iloc[-1]}, "best" or "last". Received: '
        raise ValueError(f"{words}log_dir={str(record.log_dir)!r}")
    lists = [[row for row in rows if row["epoch"] <= epoch] for rows in (record.completions, record.findings)]
    tables = dict(history=record.history[epochs <= epoch], verdicts=record.verdicts.loc[:epoch])
    tables |= dict(zip(("completions", "findings"), lists, strict=True))
    return dataclasses.replace(record, epoch=epoch, after=None, rates=None, summary=None, **tables)


def _read_lines(path: Path) -> list[dict]:
    return [record for record, _ in run_folder.complete_lines(path)]


def _read_verdicts(log_dir: Path) -> pd.DataFrame:
    """What `TensorBoardCallback` writes: a verdict has no value before the epoch in which it is first met."""
    events = EventAccumulator(str(log_dir), size_guidance={TENSORS: 0})  # 0 keeps all
    events.Reload()
    columns = {}
    for tag in events.Tags()[TENSORS]:
        if tag.startswith(_VERDICT):
            values = {event.step + 1: tensor_util.make_ndarray(event.tensor_proto) for event in events.Tensors(tag)}
            columns[tag.removeprefix(_VERDICT)] = {epoch: float(value) for epoch, value in values.items()}
    return pd.DataFrame(columns).rename_axis("epoch").sort_index().fillna(0.0)
