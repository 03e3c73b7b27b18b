"""pass@k and maj@k: what the best of k completions, and a majority vote over their answers, are worth."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.signal import convolve2d
from scipy.stats import binom


def pass_at_k(n: int, c: int, k: int) -> float:
    """The unbiased estimate of the probability that at least one of `k` completions is correct.

    `1 − C(n−c, k) / C(n, k)`, equation 1 of Chen et al. 2021, arXiv:2107.03374, exact before it is rounded to a float,
    from `n` completions of a puzzle, `c` of them correct; ValueError if not `0 <= c <= n` and `1 <= k <= n`.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n. Received: n={n}, c={c}, k={k}")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def majority_at_k(answers: Sequence[str | None], correct: Sequence[bool], k: int) -> float:
    """The unbiased estimate of the probability that the answer most of `k` completions give is correct.

    This is self-consistency (Wang et al. 2022, arXiv:2203.11171): the mean over all draws of k of the n completions,
    without replacement, of whether the answer with the most votes is correct; of tied answers each is taken equally
    often. The mean over all draws is a U-statistic, so it has no bias (Hoeffding 1948, doi:10.1214/aoms/1177730196).

    No draw is made. Each completion is drawn or not by a coin of its own, so that answers get independent, binomial
    numbers of votes; given that k were drawn, all draws of k are equally likely. The sum goes over how many votes win
    and how many answers share them. It takes time of the order n·k²·log k at most.

    Args:
        answers: n of them, one a completion, equal if they say the same; `None` is no vote.
        correct: n of them; if completions of one answer differ, the answer counts as their mean.
        k: completions that vote.

    Raises:
        ValueError: if not `1 <= k <= n`, or there are not as many `answers` as `correct`.
    """
    n = len(answers)
    if len(correct) != n or not 1 <= k <= n:
        raise ValueError(f"maj@k needs 1 <= k <= n. Received: {n} answers, {len(correct)} correct or not, k={k}")
    counts = Counter(answer for answer in answers if answer is not None)
    right = Counter(answer for answer, is_right in zip(answers, correct, strict=True) if is_right)
    shares = [right[answer] / count for answer, count in counts.items()]
    coin = k / (n + 1)  # any between 0 and 1 would do; with this one no probability vanishes
    sizes = np.array(list(counts.values()), "int64")
    votes = binom.pmf(np.arange(k + 1), sizes[:, None], coin)  # [i, b]: answer i gets b votes
    won = 0.0
    for top in range(1, min(k, max(sizes, default=0)) + 1):
        can_win = sizes >= top
        others = binom.pmf(np.arange(k + 1), n - sizes[can_win].sum(), coin)
        won += _won_with(top, votes[can_win], np.compress(can_win, shares), others)
    return round(float(won / binom.pmf(k, n, coin)), 12)  # so that what is equal on paper is equal


def at_k(table: pd.DataFrame, ks: Sequence[int], most_votes: int = 64) -> pd.DataFrame:
    """pass@k and maj@k of each puzzle.

    Args:
        table: one row a completion (see `tables`), with a column `answer`, see `Task.answer`.
        ks: numbers of completions, none above those of a puzzle.
        most_votes: the largest k of maj@k, which takes longer.

    Returns:
        One row a puzzle, in the order of the table, indexed by `puzzle`, with the columns `pass@<k>` and `maj@<k>`.
    """
    rows = {}
    for puzzle, part in table.groupby("puzzle", sort=False):
        answers = [answer if isinstance(answer, str) else None for answer in part["answer"]]  # pandas makes None a NaN
        correct = part["correct"].tolist()
        rows[puzzle] = {f"pass@{k}": pass_at_k(len(correct), sum(correct), k) for k in ks}
        rows[puzzle] |= {f"maj@{k}": majority_at_k(answers, correct, k) for k in ks if k <= most_votes}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("puzzle")


def _won_with(top: int, votes: np.ndarray, shares: np.ndarray, others: np.ndarray) -> float:
    """The probability that k completions are drawn, and a correct answer wins with `top` votes.

    `votes`, `(A, k + 1)`, are the probabilities of 0 … k votes for each answer that can get so many, and `shares`,
    `(A,)`, how correct it is; `others`, `(k + 1,)`, are those that 0 … k of the other completions are drawn.
    """
    k = len(others) - 1
    shape = (min(len(votes), k // top) + 1, k + 1)
    # [t, s]: s completions are drawn so far, t answers have `top` votes, and none has more.
    drawn, right = np.zeros((2, *shape))  # `right` is the same, times how many of the t answers are correct
    drawn[0] = others
    for chances, share in zip(votes, shares, strict=True):
        loses, ties = np.zeros((2, top + 1)), np.zeros((2, top + 1))
        loses[0, :top], ties[1, top] = chances[:top], chances[top]
        right = convolve2d(right, loses + ties) + share * convolve2d(drawn, ties)
        drawn = convolve2d(drawn, loses + ties)
        right, drawn = (table[: shape[0], : shape[1]] for table in (right, drawn))
    return np.sum(right[1:, k] / np.arange(1, shape[0]))
