"""Intervals of a mean over puzzles, and of a mean of shares."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest, bootstrap


def bootstrap_interval(values: Sequence[float], seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """The percentile bootstrap interval (low, high) of the mean over puzzles (Efron and Tibshirani 1993, chapter 13).

    The interval does not depend on the order of the puzzles. If all values are equal it has no width: a resample cannot
    show what was never drawn.

    Args:
        values: `(N,)`, one a puzzle, such as the share of its completions that are correct.
        seed: of the resamples.
        level: the probability that the interval is to cover.

    Raises:
        ValueError: if `values` is empty, not one-dimensional or not finite, or `level` is not between 0 and 1.
    """
    values = np.sort(np.asarray(values, "float64"))
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        what = "finite values, one a puzzle, of at least one puzzle"
        raise ValueError(f"An interval needs {what}. Received: values={values}")
    if not 0 < level < 1:
        raise ValueError(f"The level of an interval must be between 0 and 1. Received: level={level}")
    if values[0] == values[-1]:
        return float(values[0]), float(values[0])
    size = dict(n_resamples=10_000, batch=1000)  # so many in memory at a time
    rng = np.random.default_rng(seed)
    resampled = bootstrap((values,), np.mean, confidence_level=level, method="percentile", rng=rng, **size)
    return tuple(map(float, resampled.confidence_interval))


def share_interval(shares: Sequence[float], seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """The interval of a mean of shares, such as accuracy, over puzzles.

    If the shares differ, it is that of `bootstrap_interval`. If all N are equal, a bootstrap has no width, but a few
    puzzles of another kind may just not have been drawn: up to the share `unseen`, which is the upper end of the exact
    interval (Clopper and Pearson 1934) of an event that was seen in 0 of N draws. Those puzzles may have any share from
    0 to 1. Of 128 puzzles never solved the interval is 0 to 2.8 %.

    Args:
        shares: `(N,)`, one a puzzle, between 0 and 1; else ValueError.
        seed, level: those of `bootstrap_interval`.
    """
    interval = bootstrap_interval(shares, seed, level)
    least, most = float(np.min(shares)), float(np.max(shares))
    if least < 0 or most > 1:
        raise ValueError(f"Shares must be between 0 and 1. Received: shares from {least} to {most}")
    if least < most:
        return interval
    unseen = binomtest(0, len(shares)).proportion_ci(level).high
    return least * (1 - unseen), least + (1 - least) * unseen
