"""Two policies on the same puzzles: the difference of their accuracies, its interval, and a test."""

from collections.abc import Sequence

from keras_aha.evaluation.intervals import bootstrap_interval
from keras_aha.evaluation.tables import by_puzzle, summarize

import numpy as np
import pandas as pd

_SMALLEST = 1e-12


def compare(table: pd.DataFrame, other: pd.DataFrame, seed: int = 0) -> dict:
    """What one policy's accuracy is above another's, puzzle by puzzle.

    Puzzles are the pairs: how hard they are is in both of a pair and so not in the difference, whose interval is
    narrower than what two separate ones would let believe. It is the bootstrap's over puzzles (see
    `evaluation.bootstrap_interval`); the test is `sign_flip_p_value`.

    Args:
        table, other: one row a completion (see `evaluation`), of the same puzzles; each may have its own number of
            completions a puzzle.
        seed: of the interval's resamples.

    Returns:
        `difference` of the accuracies, `table`'s minus `other`'s; its `ci95`, `[low, high]`; `p_value`; `n` puzzles,
        and on how many of them the first is `better` and `worse`. Ready for JSON.

    Raises:
        ValueError: if the tables have other puzzles, or one has more completions of one puzzle than of another.
    """
    first, second = by_puzzle(table), by_puzzle(other)
    if first.empty or set(first.index) != set(second.index):
        raise ValueError(
            f"Two policies are compared on the same puzzles. Received: {len(first)} and {len(second)} puzzles, "
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
        tables: one row a completion each (see `evaluation`), of the same puzzles.
        seed: of the intervals' resamples.

    Returns:
        One row a table: `tokens`, the mean of a completion; `accuracy` with `ci95_low` and `ci95_high`; and `gain`,
        what the accuracy is above the first table's, with `gain_low`, `gain_high` and `p_value` (see `compare`).
    """
    rows = []
    for table in tables:
        summary, gain = summarize(table, seed), compare(table, tables[0], seed)
        row = {"tokens": summary["mean_completion_length"], "accuracy": summary["accuracy"]}
        row |= dict(zip(("ci95_low", "ci95_high"), summary["ci95"], strict=True))
        row |= {"gain": gain["difference"], **dict(zip(("gain_low", "gain_high"), gain["ci95"], strict=True))}
        rows.append(row | {"p_value": gain["p_value"]})
    return pd.DataFrame(rows)


def sign_flip_p_value(differences) -> float:
    """The two-sided p-value of the permutation test for pairs (Fisher 1935, The Design of Experiments, section 21).

    If it made no difference which policy is which, each puzzle's difference would be as likely with the other sign. The
    p-value is the share of all 2^N choices of signs whose sum is as far from 0 as the one seen, or farther: exact, and
    not by drawing some, as the sum's distribution is known by its Fourier transform, the product of cos(θ·difference).

    Args:
        differences: `(N,)` integers, one a puzzle.

    Returns:
        The p-value; 1 where all differences are 0. Below 1e-12, where rounding errors begin, it is 1e-12.
    """
    differences = np.asarray(differences, "int64")
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    divisor = np.gcd.reduce(sizes) if sizes.size else 1
    sizes, seen = sizes // divisor, abs(int(differences.sum())) // divisor
    farthest = int(sizes @ counts)
    angles = 2 * np.pi * np.arange(2 * farthest + 1) / (2 * farthest + 1)
    transform = np.ones_like(angles)
    for size, count in zip(sizes, counts, strict=True):
        transform *= np.cos(size * angles) ** count
    chances = np.fft.fft(transform).real / len(angles)  # of the sums 0 … farthest; those below 0 are the same
    p_value = 2 * chances[seen : farthest + 1].sum() if seen else 1.0
    return float(np.clip(p_value, _SMALLEST, 1.0))
