"""What has come of a run after an epoch, also of one that is not finished."""

import json
import os
from pathlib import Path

from keras_aha.callbacks.run_folder import BEFORE, HISTORY, SUMMARY
from keras_aha.evaluation.table_file import read_tables
from keras_aha.recipes.recipe import Recipe
from keras_aha.runs.check_files import finished_epochs
from keras_aha.runs.experiment import summarize_held_out

import pandas as pd


def summary_after(log_dir: str | os.PathLike, recipe: Recipe, epoch: int | None) -> dict:
    """`summary.json` if the run is finished and this is its last epoch, or as much of it as other files tell.

    `heldout_after` is `None` if there was no evaluation after that epoch. Its `ci95` is `None` if the run is of a
    version that did not write it in `history.csv`.
    """
    log_dir = Path(log_dir)
    if epoch is not None and finished_epochs(log_dir) == epoch:
        return json.loads((log_dir / SUMMARY).read_text(encoding="utf-8"))
    history = pd.read_csv(log_dir / HISTORY)
    history = history[history["epoch"] <= (len(history) if epoch is None else epoch)]
    return {
        "seed": recipe.training.seed,
        "epochs": len(history),
        "wall_seconds": float(history["epoch_seconds"].sum()),
        "generated_tokens": int(history["generated_tokens"].sum()),
        "heldout_before": summarize_held_out(*read_tables(log_dir / BEFORE)),
        "heldout_after": _measured(history.iloc[-1]),
    }


def _measured(row: pd.Series) -> dict | None:
    if pd.isna(row["val_accuracy"]):
        return None
    ends = [row.get(f"val_accuracy_{end}") for end in ("low", "high")]
    return {
        "accuracy": row["val_accuracy"],
        "ci95": None if pd.isna(ends).any() else ends,
        "greedy_accuracy": row["val_greedy_accuracy"],
        "format_rate": row["val_format_rate"],
        "mean_completion_length": row["val_completion_length"],
    }
