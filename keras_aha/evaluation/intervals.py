"""Intervals of a mean over puzzles, and of a mean of shares."""

from collections.abc import Sequence

import numpy as np

_RESAMPLES = 10_000
_CELLS_AT_ONCE = 4_000_000  # of the table of resamples by distinct values, 32 MB


def bootstrap_interval(values: Sequence[float], seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean over puzzles (Efron and Tibshirani 1993, chapter 13).

    Equal values are one cell of a multinomial draw, so the cost grows with the number of distinct values and the
    interval does not depend on the order of the puzzles. Where all values are equal it has no width: a resample
    cannot show what was never drawn.

    Args:
        values: `(N,)`, one a puzzle, such as the share of its completions that are correct.
        seed: of the resamples.
        level: the probability that the interval is to cover.

    Returns:
        The lower and the upper end, in the unit of `values`.

    Raises:
        ValueError: if `values` is empty, not one-dimensional or not finite, or `level` is not between 0 and 1.
    """
    values = np.asarray(values, "float64")
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(
            f"An interval needs finite values, one a puzzle, of at least one puzzle. Received: values={values}"
        )
    if not 0 < level < 1:
        raise ValueError(f"The level of an interval lies between 0 and 1. Received: level={level}")
    distinct, counts = np.unique(values, return_counts=True)
    rng = np.random.default_rng(seed)
    chunk = max(1, min(_RESAMPLES, _CELLS_AT_ONCE // distinct.size))
    means = np.concatenate(
        [
            rng.multinomial(values.size, counts / values.size, size=min(chunk, _RESAMPLES - start))
            @ distinct
            / values.size
            for start in range(0, _RESAMPLES, chunk)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def share_interval(shares: Sequence[float], seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """The interval of a mean of shares, such as accuracy, over puzzles: that of `bootstrap_interval` where they differ.

    Where all N are the same, a bootstrap has no width. But N draws miss what has a probability of q with one of
    (1 − q)^N, so as much as q = 1 − ((1 − level) / 2)^(1/N) of all puzzles may have any other share. Where all shares
    are 0 or all are 1, that is the exact interval of Clopper and Pearson (1934) for N draws: of 128 puzzles never
    solved, 0 to 2.8 %.

    Args:
        shares: `(N,)`, one a puzzle, between 0 and 1.
        seed: of the resamples.
        level: the probability that the interval is to cover.

    Returns:
        The lower and the upper end, between 0 and 1.

    Raises:
        ValueError: if a share is not between 0 and 1, or what `bootstrap_interval` raises.
    """
    interval = bootstrap_interval(shares, seed, level)
    least, most = float(np.min(shares)), float(np.max(shares))
    if least < 0 or most > 1:
        raise ValueError(f"Shares lie between 0 and 1. Received: shares from {least} to {most}")
    if least < most:
        return interval
    unseen = 1 - ((1 - level) / 2) ** (1 / len(shares))
    return least * (1 - unseen), least + (1 - least) * unseen
