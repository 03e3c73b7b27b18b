"""May a run begin in a folder, or go on there? What a kill leaves is fine, what is damaged is said."""

import json
import os
from pathlib import Path

from keras_aha.callbacks import checkpoint_contents, run_folder
from keras_aha.callbacks.run_folder import BEFORE, COMPLETIONS, FINDINGS, HISTORY, SUMMARY
from keras_aha.evaluation.table_file import read_tables
from keras_aha.files import local_path
from keras_aha.models.lora import ADAPTERS
from keras_aha.recipes.changes import check_changes
from keras_aha.recipes.recipe import RECIPE, Recipe
from keras_aha.runs.check_folder import check_new_folder, check_writable

PRESET = "preset"  # the folder in a run's folder, if every weight was trained
SOURCES = "sources.json"  # see `runs.sources`
_NEEDED = ("epoch", "generated_tokens", "epoch_seconds")  # columns of which a summary is made


def check_log_dir(log_dir: str | os.PathLike, recipe: Recipe, resume: bool = False) -> list[str]:
    """Checks that a run may begin in a folder, or that the one there may go on; nothing is written.

    Args:
        log_dir: the run's, which need not exist.
        recipe: of the run, its paths absolute.
        resume: whether to go on with the run in the folder, if there is one.

    Returns:
        What has changed since the run began, a line each: `training.epochs: 30 → 60`.

    Raises:
        ValueError: if the folder holds a run and `resume` is not set, or other files; if it would become another run
            (see `check_changes`); if one of the run's files is damaged (see `check_run`).
    """
    own = local_path(log_dir, "log_dir") / RECIPE
    run_folder.check_no_pattern(log_dir)
    if not os.path.isfile(own):  # which no name is too long for
        check_new_folder(log_dir, "log_dir")
        return []
    if not resume:
        raise ValueError(
            f"{log_dir} holds a run: go on with it by resume=True, or choose another log_dir. "
            f"Received: log_dir={str(log_dir)!r}, resume=False"
        )
    check_writable(log_dir, "log_dir")
    changes = check_changes(Recipe.load(own), recipe, may_move=read_sources(log_dir))
    check_run(log_dir, recipe)
    return changes


def check_run(log_dir: str | os.PathLike, recipe: Recipe) -> None:
    """Raises ValueError if a file of a run does not hold what it has written, or it has more epochs than the recipe.

    A last line that was not written to its end is what a kill leaves, and no damage; nor is a file that is not there,
    but for `history.csv` if there are checkpoints. Arrays of checkpoints are looked at as they are read.
    """
    log_dir = Path(log_dir)
    trained = saved_epochs(log_dir)
    if trained > recipe.training.epochs:
        raise ValueError(
            f"The run in {log_dir} has {trained} epochs already. Received: training.epochs={recipe.training.epochs}"
        )
    if not trained and any((log_dir / name).exists() for name in (ADAPTERS, PRESET)):
        raise ValueError(
            f"The run in {log_dir} has a policy and no checkpoints, so it would begin anew and lose it: put the "
            f"checkpoints back, or begin another run from it by lora.start. Received: log_dir={str(log_dir)!r}"
        )
    finished_epochs(log_dir)
    _check_held_out(log_dir / BEFORE, recipe)
    _check_history(log_dir / HISTORY, trained)
    for name in (COMPLETIONS, FINDINGS):
        if (log_dir / name).exists():
            run_folder.complete_lines(log_dir / name)


def checkpoints(log_dir: str | os.PathLike) -> list[int]:
    """The epochs after which all that is trained is in a checkpoint, in order, by their names."""
    folder = run_folder.checkpoint_folder(log_dir)
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


def saved_epochs(log_dir: str | os.PathLike) -> int:
    """The epoch of a run's last checkpoint; 0 if there is none."""
    return max(checkpoints(log_dir), default=0)


def best_epoch(log_dir: str | os.PathLike) -> int | None:
    """The epoch of a run's best checkpoint by held-out accuracy, the later one of equals; `None` if none is known."""
    folder = run_folder.checkpoint_folder(log_dir)
    return checkpoint_contents.best(checkpoint_contents.read_scores(folder, "val_accuracy"))


def finished_epochs(log_dir: str | os.PathLike) -> int | None:
    """How many epochs a run has trained by its summary; `None` if it has none yet, ValueError if it is damaged."""
    path = Path(log_dir, SUMMARY)
    if not path.exists():
        return None
    try:
        return int(json.loads(path.read_bytes())["epochs"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no summary of a run: remove it, and it is written again. Received: {error!r}"
        ) from error


def read_sources(log_dir: str | os.PathLike) -> dict[str, int | str]:
    """What `source_checksums` said as the run in a folder began; nothing if it did not write it."""
    path = Path(log_dir, SOURCES)
    try:
        return dict(json.loads(path.read_bytes())) if path.is_file() else {}
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read: put it back from a copy, or remove it. Received: {error!r}"
        ) from error


def _check_held_out(path: Path, recipe: Recipe) -> None:
    if not path.exists():
        return
    puzzles, samples = recipe.evaluation.puzzles, recipe.evaluation.samples
    try:
        rows = [len(table) for table in read_tables(path)]
        received = f"{rows} completions"
    except ValueError as error:
        rows, received = None, error
    if rows != [puzzles * samples, puzzles]:
        raise ValueError(
            f"{path} does not hold what the policy made of {puzzles} held-out puzzles before training: remove it, and "
            f"it is made again. Received: {received}"
        )


def _check_history(path: Path, trained: int) -> None:
    """A row that is not whole counts as missing."""
    if not trained:
        return
    rows = run_folder.history_rows(path) if path.exists() else []
    epochs = [int(row["epoch"]) for row in rows if _is_whole(row)]
    epochs = [epoch for epoch in epochs if epoch <= trained]
    if epochs != [*range(1, trained + 1)]:
        lacking = sorted({*range(1, trained + 1)} - {*epochs})
        what = f"has no whole row of epoch {lacking[0]}" if lacking else "has rows twice, or not in their order"
        raise ValueError(
            f"{path} {what}, so the run cannot go on as it began: put the file back from a copy, or begin another run. "
            f"Received: {len(epochs)} whole rows, for checkpoints up to epoch {trained}"
        )


def _is_whole(row: dict) -> bool:
    """Whether a row has a number, or nothing, in each column, and all that are needed."""
    if not all(row.get(name) for name in _NEEDED):
        return False
    try:
        [float(value or 0) for value in row.values()]
    except ValueError:
        return False
    return row["epoch"].isdecimal()
