"""Accuracy, behaviours and intervals over tables of scored completions.

A table is a pandas `DataFrame` with one row a completion and at least the columns below. A task's labels
(`difficulty`, `num_numbers`, …) are further columns, with one value a puzzle.

    puzzle             which puzzle: an integer or any other value that pandas groups by
    sample             which of the puzzle's completions, from 0
    text               the completion
    reward             the task's reward, without others that the policy may be trained on
    reward_<name>      another reward, NaN where it failed; only if there is one, and not of greedy completions
    correct            bool
    verdict            the task's reason, e.g. "wrong_value"
    well_formed        bool: the completion holds an answer in the asked form, right or wrong
    lenient            bool: the right answer stands somewhere, in whatever form; only if a task's scores tell
    completion_length  tokens
    stopped            bool: the policy ended it, not the limit on its length
    attempts, verifications, backtracks, self_corrections, slips
                       how often the completion did so (`behaviours.Behaviours`)
    turns, tool_calls, tool_errors, observation_tokens, transcript
                       only of a task that answers; `text` has the policy's own words, `transcript` all

Puzzles are independent draws; completions of one puzzle are not. So every mean is over puzzles, and every interval
resamples puzzles.
"""

from collections.abc import Sequence
from dataclasses import asdict, fields

from keras_aha.evaluation.behaviours import Behaviours, count_behaviours
from keras_aha.evaluation.intervals import bootstrap_interval, share_interval
from keras_aha.tasks.checkers.unchecked import UNCHECKED

import numpy as np
import pandas as pd

BEHAVIOURS = tuple(field.name for field in fields(Behaviours))
TURNS = ("turns", "tool_calls", "tool_errors", "observation_tokens")


def by_puzzle(table: pd.DataFrame, columns: str | Sequence[str] = ()) -> pd.DataFrame:
    """One row a puzzle, in the order of the table, indexed by `puzzle`.

    Returns:
        `columns` (labels to keep), `samples` and `correct` (counts), and the puzzle's means `accuracy`, `format_rate`,
        `lenient_accuracy` if the table has `lenient`, `mean_reward`, `mean_completion_length` (tokens),
        `mean_attempts`, and so on for each of `BEHAVIOURS`, for those of `TURNS` that the table has, and
        `mean_reward_<name>` of other rewards.

    Raises:
        ValueError: if a column is missing or a puzzle has two values of a label.
    """
    columns = [columns] if isinstance(columns, str) else list(columns)
    check_columns(table, ["correct", "well_formed", "reward", "completion_length", *columns])
    groups = table.groupby("puzzle", sort=False)
    for column in columns:
        if (groups[column].nunique(dropna=False) > 1).any():
            raise ValueError(f"A label must have one value a puzzle. Received: column={column!r}")
    kept = {column: (column, "first") for column in columns}
    counts = dict(samples=("correct", "size"), correct=("correct", "sum"))
    shares = dict(accuracy=("correct", "mean"), format_rate=("well_formed", "mean"))
    shares |= dict(lenient_accuracy=("lenient", "mean")) if "lenient" in table else {}
    means = {f"mean_{name}": (name, "mean") for name in ("reward", *_averaged(table))}
    return groups.agg(**kept, **counts, **shares, **means)


def summarize(table: pd.DataFrame, seed: int = 0) -> dict:
    """The numbers of one evaluation, ready for JSON.

    `seed` is that of the interval's resamples.

    Returns:
        `accuracy`, `n` (puzzles), `samples` (completions a puzzle), `ci95` (`[low, high]` of the accuracy),
        `format_rate`, `lenient_accuracy` if the table has `lenient`, `mean_completion_length` (tokens),
        `mean_attempts` and so on for each of `BEHAVIOURS` and those of `TURNS` that the table has, `mean_reward_<name>`
        of other rewards, of which failures are left out, and one that always failed too; rates are shares between 0
        and 1.

    Raises:
        ValueError: if the table is empty, lacks a column, or has more completions of one puzzle than of another.
    """
    puzzles = by_puzzle(table)
    if puzzles["samples"].nunique() != 1:
        raise ValueError(
            "A summary needs at least one puzzle and the same number of completions for each. "
            f"Received: completions a puzzle={sorted(puzzles['samples'].unique().tolist())}"
        )
    means = ["format_rate", "lenient_accuracy", *(f"mean_{name}" for name in _averaged(table))]
    return {
        "accuracy": float(puzzles["accuracy"].mean()),
        "n": len(puzzles),
        "samples": int(puzzles["samples"].iloc[0]),
        "ci95": list(share_interval(puzzles["accuracy"], seed)),
        **{name: float(puzzles[name].mean()) for name in means if name in puzzles and puzzles[name].notna().any()},
    }


def checked(table: pd.DataFrame) -> pd.DataFrame:
    """The completions of those puzzles that have a checker; the verdict on others is `"unchecked"`."""
    return table[~table["puzzle"].isin(table.loc[table["verdict"] == UNCHECKED, "puzzle"])]


def _averaged(table: pd.DataFrame) -> list[str]:
    numbers = [name for name in TURNS if name in table]
    return ["completion_length", *BEHAVIOURS, *numbers, *other_rewards(table)]


def other_rewards(table: pd.DataFrame) -> list[str]:
    """The columns of rewards beside the task's own."""
    return [name for name in table.select_dtypes("float") if str(name).startswith("reward_")]


def by_label(table: pd.DataFrame, columns: str | Sequence[str], seed: int = 0) -> pd.DataFrame:
    """One row for each combination of labels that occurs, sorted by them.

    Returns:
        `columns` (a label or several), then what `summarize` returns for those puzzles, with `ci95` as `ci95_low` and
        `ci95_high`.

    Raises:
        ValueError: if no column is named, or what `by_puzzle` and `summarize` raise.
    """
    columns = [columns] if isinstance(columns, str) else list(columns)
    if not columns:
        raise ValueError(f"A table by label needs at least one label. Received: columns={columns}")
    by_puzzle(table, columns)  # no puzzle may count under two labels
    rows = []
    for labels, part in table.groupby(columns, sort=True, dropna=False):
        summary = summarize(part, seed)
        low, high = summary.pop("ci95")
        accuracy = {"accuracy": summary.pop("accuracy"), "ci95_low": low, "ci95_high": high}
        rows.append(dict(zip(columns, labels, strict=True)) | accuracy | summary)
    return pd.DataFrame(rows)


# === Behaviours ===


def with_behaviours(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the table with the columns `BEHAVIOURS`, counted in its texts."""
    counts = [asdict(count_behaviours(text)) for text in table["text"]]
    return table.assign(**pd.DataFrame(counts, index=table.index, columns=list(BEHAVIOURS)))


def behaviour_rates(before: pd.DataFrame, after: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """What completions of two policies do, side by side: of the one before training and the one after it.

    A rate is the mean over puzzles of a puzzle's mean over its completions. Among the correct completions a puzzle
    counts once, however many of its completions are correct, and not at all if none is. Easy puzzles need less of
    everything, so `change` is over the puzzles that have such completions both before and after.

    Args:
        before, after: of the same puzzles, with the column `problem`.
        seed: of the intervals' resamples.

    Returns:
        One row for `completions` `"all"`, `"correct"`, `"wrong"` and each `behaviour`: those of `BEHAVIOURS` as counts
        a completion, and `completion_length` in tokens. The columns `before`, `after` and `change` are means, NaN of no
        puzzle, with the ends of their 95 % intervals, `…_low` and `…_high`, and the numbers of puzzles, `…_puzzles`.

    Raises:
        ValueError: if a column is missing or the tables are not of the same puzzles.
    """
    names = [*BEHAVIOURS, "completion_length"]
    for table in (before, after):
        check_columns(table, ["problem", "correct", "completion_length"])
    puzzles, others = (set(table[["puzzle", "problem"]].itertuples(index=False)) for table in (before, after))
    if puzzles != others:
        raise ValueError(
            "Behaviours must be compared on the same puzzles before and after. "
            f"Received: {len(puzzles - others)} puzzles before only, {len(others - puzzles)} after only, "
            f"e.g. {min(puzzles ^ others, key=str).problem!r}"
        )
    rows = []
    for completions, correct in (("all", (True, False)), ("correct", (True,)), ("wrong", (False,))):
        parts = (table[table["correct"].isin(correct)] for table in (before, after))
        start, end = (part.groupby("puzzle")[names].mean() for part in parts)
        change = end - start  # NaN for a puzzle of one side alone
        for name in names:
            row = {"completions": completions, "behaviour": name}
            for part, means in {"before": start, "after": end, "change": change}.items():
                row |= _estimate(part, means[name].dropna(), seed)
            rows.append(row)
    return pd.DataFrame(rows)


def check_columns(table: pd.DataFrame, names: Sequence[str]) -> None:
    """Raises ValueError unless `table` has the columns `puzzle`, `BEHAVIOURS` and `names`."""
    missing = [name for name in ("puzzle", *BEHAVIOURS, *names) if name not in table.columns]
    if missing:
        raise ValueError(f"The table of completions lacks columns. Received: missing={missing}")


def _estimate(name: str, values: pd.Series, seed: int) -> dict:
    low, high = bootstrap_interval(values, seed) if len(values) else (np.nan, np.nan)
    return {name: values.mean(), f"{name}_low": low, f"{name}_high": high, f"{name}_puzzles": len(values)}
