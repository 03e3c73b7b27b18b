import itertools
import math
import time
from collections import Counter

from keras_aha.evaluation.at_k import at_k, majority_at_k, pass_at_k

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def test_pass_at_k_equals_counting_all_draws():
    for n in range(1, 8):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-14)


@pytest.mark.parametrize("n, c, k", [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)])
def test_pass_at_k_refuses_impossible_counts(n, c, k):
    with pytest.raises(ValueError, match="Received: n="):
        pass_at_k(n, c, k)


def by_all_draws(answers, correct, k):
    """The definition: every draw of k votes, ties split."""
    results = []
    for draw in itertools.combinations(range(len(answers)), k):
        votes = Counter(answers[i] for i in draw if answers[i] is not None)
        winners = [answer for answer, count in votes.items() if count == max(votes.values())]
        shares = [
            np.mean([right for other, right in zip(answers, correct, strict=True) if other == winner])
            for winner in winners
        ]
        results.append(np.mean(shares) if shares else 0.0)
    return np.mean(results)


@pytest.mark.parametrize(
    "answers, right, k, expected",
    [("ab", "a", 2, 0.5), ("aab", "b", 2, 1 / 3), ("a--", "a", 3, 1.0), ("a--", "a", 2, 2 / 3)],  # no vote: -
)
def test_a_majority_by_hand(answers, right, k, expected):
    votes = [None if answer == "-" else answer for answer in answers]
    assert majority_at_k(votes, [answer == right for answer in answers], k) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_majority_equals_counting_all_draws(data):
    """So it is unbiased: the mean over all draws is a U-statistic."""
    completions = st.tuples(st.sampled_from([None, *"abcd"]), st.booleans())  # one answer may be right and wrong
    answers, correct = zip(*data.draw(st.lists(completions, min_size=1, max_size=8)), strict=True)
    k = data.draw(st.integers(1, len(answers)))
    assert majority_at_k(answers, correct, k) == pytest.approx(by_all_draws(answers, correct, k), abs=1e-12)


def test_two_answers_are_a_hypergeometric_tail_however_many_there_are():
    n, a, k = 3000, 1800, 15
    answers = ["a"] * a + ["b"] * (n - a)
    ways = sum(math.comb(a, won) * math.comb(n - a, k - won) for won in range(8, k + 1))
    start = time.process_time()
    share = majority_at_k(answers, [answer == "a" for answer in answers], k)
    assert time.process_time() - start < 2
    assert share == pytest.approx(ways / math.comb(n, k), rel=1e-9)


@pytest.mark.parametrize("answers, correct, k", [(["a"], [True], 0), (["a"], [True], 2), (["a"], [], 1), ([], [], 1)])
def test_what_cannot_vote_is_refused(answers, correct, k):
    with pytest.raises(ValueError, match=f"k={k}"):
        majority_at_k(answers, correct, k)


def test_a_table_of_puzzles():
    table = pd.DataFrame({"puzzle": [7, 7, 7, 3, 3, 3], "correct": [True, True, False, False, False, False]})
    table["answer"] = ["1 + 2", "1 + 2", None, "3", None, None]
    puzzles = at_k(table, [1, 3], most_votes=2)
    assert puzzles.index.tolist() == [7, 3] and puzzles.columns.tolist() == ["pass@1", "pass@3", "maj@1"]
    np.testing.assert_allclose(puzzles, [[2 / 3, 1.0, 2 / 3], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(at_k(table, [3])["maj@3"], [1.0, 0.0])
