"""Two policies on the same puzzles: the difference of their accuracies, its interval, and a test."""

from collections.abc import Sequence

from keras_aha.evaluation.intervals import bootstrap_interval
from keras_aha.evaluation.tables import by_puzzle, summarize

import numpy as np
import pandas as pd


def compare(table: pd.DataFrame, other: pd.DataFrame, seed: int = 0) -> dict:
    """How far one policy's accuracy is above another's, puzzle by puzzle.

    How hard a puzzle is counts for both policies, so not in the difference, whose interval (`bootstrap_interval`) is
    narrower than two separate ones suggest.

    Args:
        table, other: one row a completion (see `tables`); each may have its own number of completions a puzzle.
        seed: of the interval's resamples.

    Returns:
        `difference` of the accuracies, `table`'s minus `other`'s; its `ci95`, `[low, high]`; `p_value` (see
        `sign_flip_p_value`); `n` puzzles, on how many of them the first is `better` and `worse`. Ready for JSON.

    Raises:
        ValueError: if the tables are of other puzzles, or one has more completions of one puzzle than of another.
    """
    first, second = by_puzzle(table), by_puzzle(other)
    if first.empty or set(first.index) != set(second.index):
        raise ValueError(
            f"Two policies must be compared on the same puzzles. Received: {len(first)} and {len(second)} puzzles, "
            f"{len(first.index.intersection(second.index))} of them in both"
        )
    second = second.loc[first.index]
    samples = [puzzles["samples"].unique().tolist() for puzzles in (first, second)]
    if any(len(counts) > 1 for counts in samples):
        raise ValueError(f"A comparison needs as many completions of each puzzle. Received: {samples}")
    # In whole numbers, so that what is equal is equal.
    differences = (first["correct"] * second["samples"] - second["correct"] * first["samples"]).to_numpy()
    scale = samples[0][0] * samples[1][0]
    return {
        "difference": float(differences.mean() / scale),
        "ci95": list(bootstrap_interval(differences / scale, seed)),
        "p_value": sign_flip_p_value(differences),
        "n": len(differences),
        "better": int((differences > 0).sum()),
        "worse": int((differences < 0).sum()),
    }


def accuracy_curve(tables: Sequence[pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """Accuracy against tokens, as completions of the same puzzles are given more of them.

    Args:
        tables: one row a completion each (see `tables`), of the same puzzles.
        seed: of the intervals' resamples.

    Returns:
        One row a table: `tokens`, the mean of a completion; `accuracy` with `ci95_low` and `ci95_high`; and `gain`,
        what the accuracy is above the first table's, with `gain_low`, `gain_high` and `p_value` (see `compare`).
    """
    rows = []
    for table in tables:
        summary, gain = summarize(table, seed), compare(table, tables[0], seed)
        accuracy = summary["mean_completion_length"], summary["accuracy"], *summary["ci95"]
        rows.append((*accuracy, gain["difference"], *gain["ci95"], gain["p_value"]))
    columns = "tokens accuracy ci95_low ci95_high gain gain_low gain_high p_value"
    return pd.DataFrame(rows, columns=columns.split())


def sign_flip_p_value(differences) -> float:
    """The two-sided p-value of the permutation test for pairs (Fisher 1935, The Design of Experiments, section 21).

    If it made no difference which policy is which, each puzzle's difference would be as likely with the other sign. The
    p-value is the share of all 2^N choices of signs whose sum is as far from 0 as the observed one, or farther. It is
    exact, because the distribution of the sum is built up puzzle by puzzle; `scipy.stats.permutation_test` would draw
    some of the choices.

    Args:
        differences: `(N,)` integers, one a puzzle.
    """
    sizes = np.abs(np.asarray(differences, "int64"))
    divisor = max(np.gcd.reduce(sizes), 1)
    chances = np.ones(1)  # of the sums -S, -S + 2, … S, where S is what the sizes so far add up to
    for size in sizes // divisor:
        chances = (np.pad(chances, (size, 0)) + np.pad(chances, (0, size))) / 2
    sums = np.arange(len(chances)) * 2 - (len(chances) - 1)
    return float(chances[np.abs(sums) >= abs(np.sum(differences)) // divisor].sum())
