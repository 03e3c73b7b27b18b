"""maj@k: what a majority vote over the answers of k completions is worth, beside pass@k."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd


def pass_at_k(n, c, k: int):
    """The unbiased estimate of the probability that at least one of `k` completions is correct.

    `1 − C(n−c, k) / C(n, k)`, equation 1 of Chen et al. 2021, arXiv:2107.03374, as a product that does not overflow.

    Args:
        n: completions a puzzle: an integer, or an array of them.
        c: how many of those are correct, of a shape that broadcasts with `n`.
        k: completions allowed.

    Returns:
        A float, or float64 of the broadcast shape.

    Raises:
        ValueError: if not `0 <= c <= n` and `1 <= k <= n` everywhere.
    """
    n, c = np.broadcast_arrays(np.asarray(n, "int64"), np.asarray(c, "int64"))
    if n.size and not ((0 <= c) & (c <= n) & (1 <= k) & (k <= n)).all():
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n. Received: n={n}, c={c}, k={k}")
    drawn = np.arange(k)
    all_wrong = np.prod(np.maximum(n[..., None] - c[..., None] - drawn, 0) / (n[..., None] - drawn), axis=-1)
    estimate = 1.0 - all_wrong
    return estimate if estimate.ndim else float(estimate)


def majority_at_k(answers: Sequence[str | None], correct: Sequence[bool], k: int) -> float:
    """The unbiased estimate of the probability that the answer most of `k` completions give is correct.

    This is self-consistency (Wang et al. 2022, arXiv:2203.11171): the mean over all draws of k of the n completions,
    without replacement, of whether the answer with the most votes is correct; of tied answers each is taken equally
    often. The mean over all draws is a U-statistic, so it has no bias (Hoeffding 1948, doi:10.1214/aoms/1177730196).

    No draw is made. With each completion drawn or not by a coin of its own, answers get binomial numbers of votes that
    know nothing of each other, and given that k were drawn all draws of k are equally likely; so the sum goes over how
    many votes win and how many answers share them. It takes time of the order n·k²·log k at most.

    Args:
        answers: n of them, one a completion, equal where they say the same; `None` is no vote.
        correct: n of them; where completions of one answer differ, the answer counts as their mean.
        k: completions that vote.

    Returns:
        A probability, to 12 digits; 0 where nobody votes.

    Raises:
        ValueError: if not `1 <= k <= n`, or there are not as many `answers` as `correct`.
    """
    n = len(answers)
    if len(correct) != n or not 1 <= k <= n:
        raise ValueError(f"maj@k needs 1 <= k <= n. Received: {n} answers, {len(correct)} correct or not, k={k}")
    votes = Counter(answer for answer in answers if answer is not None)
    right = Counter()
    for answer, is_right in zip(answers, correct, strict=True):
        right[answer] += bool(is_right)
    shares = [(count, right[answer] / count) for answer, count in votes.items()]
    coin = k / (n + 1)  # any between 0 and 1 would do; with this one nothing vanishes
    most = min(k, max(votes.values(), default=0))
    total = sum(_won_by(top, shares, n, k, coin) for top in range(1, most + 1))
    return round(float(total / _binomial(n, k, coin)[k]), 12)  # so that what is equal on paper is equal


def at_k(table: pd.DataFrame, ks: Sequence[int], most_votes: int = 64) -> pd.DataFrame:
    """pass@k and maj@k of each puzzle.

    Args:
        table: one row a completion (see `evaluation`), with a column `answer`, see `Task.answer`.
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


def _won_by(top, shares, n, k, coin):
    """The probability that k are drawn and an answer wins with `top` votes and is correct."""
    contenders = [(count, share) for count, share in shares if count >= top]
    others = n - sum(count for count, _ in contenders)  # who cannot get so many votes, or do not vote
    # [t, s]: s completions are drawn so far, t of the answers have `top` votes, and none has more.
    drawn = np.zeros((min(len(contenders), k // top) + 1, k + 1))
    drawn[0] = _binomial(others, k, coin)
    right = np.zeros_like(drawn)  # the same, times how many of the t answers are correct
    for count, share in contenders:
        chances = _binomial(count, k, coin)

        def fewer(x, chances=chances):
            return sum(chances[b] * np.pad(x[:, : k + 1 - b], ((0, 0), (b, 0))) for b in range(top))

        def ties(x, chances=chances):
            return chances[top] * np.pad(x[:-1, : k + 1 - top], ((1, 0), (top, 0)))

        right = fewer(right) + ties(right) + share * ties(drawn)
        drawn = fewer(drawn) + ties(drawn)
    return np.sum(right[1:, k] / np.arange(1, len(right)))


def _binomial(count, k, coin):
    """The probabilities of 0 … k of `count`, `(k + 1,)`."""
    ways = np.array([_log_ways(count, b) for b in range(min(count, k) + 1)])
    b = np.arange(len(ways))
    chances = np.exp(ways + b * math.log(coin) + (count - b) * math.log1p(-coin))
    return np.pad(chances, (0, k + 1 - len(chances)))


def _log_ways(n, b):
    return math.lgamma(n + 1) - math.lgamma(b + 1) - math.lgamma(n - b + 1)
