import itertools
import json
import math

from keras_aha.evaluation.at_k import pass_at_k
from keras_aha.evaluation.intervals import bootstrap_interval, share_interval
from keras_aha.evaluation.tables import BEHAVIOURS, behaviour_rates, by_label, by_puzzle, summarize, with_behaviours

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st


def table_of(correct, **labels):
    """One row a completion; `correct` holds one list a puzzle, `labels` one value a puzzle."""
    return pd.DataFrame(
        {
            "puzzle": puzzle,
            "sample": sample,
            "text": "",
            "reward": 1.0 if right else 0.1,
            "correct": right,
            "verdict": "correct" if right else "no_answer",
            "well_formed": right,
            "completion_length": 10 * (puzzle + 1) + sample,
            "stopped": True,
            "attempts": sample,
            "verifications": 2 * sample,
            "backtracks": 0,
            "self_corrections": 0,
            "slips": 1,
            **{name: values[puzzle] for name, values in labels.items()},
        }
        for puzzle, row in enumerate(correct)
        for sample, right in enumerate(row)
    )


TABLE = table_of(
    [[True, False], [False, False], [True, True], [True, False]],
    num_numbers=[3, 3, 4, 4],
    difficulty=[1, 2, 1, 1],
)


# === bootstrap_interval ===


def test_interval_of_two_puzzles_by_hand():
    # Resampled means of (0, 1) are 0, 1/2, 1 with probability 1/4, 1/2, 1/4: 95 % reaches from 0 to 1, 40 % is 1/2.
    assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], level=0.4) == (0.5, 0.5)


def test_interval_equals_plain_resampling_of_puzzles():
    values = np.random.default_rng(1).integers(0, 5, 60) / 4
    rng = np.random.default_rng(2)
    means = np.array([rng.choice(values, values.size).mean() for _ in range(10_000)])
    np.testing.assert_allclose(bootstrap_interval(values), np.quantile(means, [0.025, 0.975]), atol=0.01)


def test_interval_is_as_wide_as_the_normal_approximation():
    values = np.array([0.0] * 150 + [1.0] * 106)
    low, high = bootstrap_interval(values)
    mean, error = values.mean(), values.std() / math.sqrt(values.size)
    np.testing.assert_allclose([low, high], [mean - 1.96 * error, mean + 1.96 * error], atol=0.005)


def test_interval_is_seeded_and_ignores_the_order_of_puzzles():
    values = np.random.default_rng(0).normal(size=500)  # as many distinct values, so several chunks of resamples
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values[::-1], seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_interval_of_equal_values_has_no_width():
    assert bootstrap_interval([0.25] * 8) == (0.25, 0.25)


@pytest.mark.parametrize("values", [[], [[0.0, 1.0]], [0.0, math.nan]])
def test_interval_refuses_what_has_no_mean_over_puzzles(values):
    with pytest.raises(ValueError, match="Received: values="):
        bootstrap_interval(values)


def test_interval_refuses_a_level_in_percent():
    with pytest.raises(ValueError, match="Received: level=95"):
        bootstrap_interval([0.0, 1.0], level=95)


# === share_interval ===


@pytest.mark.parametrize("shares", [[0.5, 0.0, 1.0, 0.5], [0.0] * 9 + [0.5], [1.0] * 9 + [0.5]])
def test_shares_that_differ_have_the_interval_of_a_bootstrap(shares):
    assert share_interval(shares, seed=3, level=0.9) == bootstrap_interval(shares, seed=3, level=0.9)


@pytest.mark.parametrize("n", [1, 2, 10, 128])
@pytest.mark.parametrize("level", [0.5, 0.95])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_equal_shares_end_where_the_draw_becomes_unlikely(share, n, level):
    """An end is the mean of a distribution that draws `share` so rarely, and else 0 or 1, that N in a row are rare."""
    low, high = share_interval([share] * n, level=level)
    for end, other in ((low, 0.0), (high, 1.0)):
        if share != other:
            drawn = (end - other) / (share - other)  # the probability of `share`
            assert drawn**n == pytest.approx((1 - level) / 2)
    assert low <= share <= high and (share not in (0, 1) or share in (low, high))


def test_of_100_puzzles_never_or_always_solved():
    # Published tables of exact binomial limits have 0 to 3.62 % for 0 of 100.
    assert share_interval([0.0] * 100) == pytest.approx((0.0, 0.0362), abs=5e-5)
    assert share_interval([1.0] * 100) == pytest.approx((0.9638, 1.0), abs=5e-5)


@pytest.mark.parametrize("shares", [[-0.1, 0.5], [0.5, 1.1]])
def test_an_interval_of_shares_refuses_other_numbers(shares):
    with pytest.raises(ValueError, match="Received: shares from"):
        share_interval(shares)


# === pass_at_k ===


@pytest.mark.parametrize(
    "n, c, k, expected",
    [(1, 0, 1, 0.0), (1, 1, 1, 1.0), (4, 1, 1, 0.25), (4, 1, 2, 0.5), (4, 2, 2, 5 / 6), (4, 3, 2, 1.0), (5, 2, 3, 0.9)],
)
def test_pass_at_k_by_hand(n, c, k, expected):
    assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-15)


def test_pass_at_k_equals_counting_all_draws():
    for n in range(1, 8):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-14)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_equals_exact_binomials(case):
    n, c, k = case
    assert pass_at_k(n, c, k) == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k), abs=1e-12)


def test_pass_at_k_takes_arrays():
    result = pass_at_k(np.array([4, 4, 2]), np.array([1, 4, 0]), 2)
    np.testing.assert_allclose(result, [0.5, 1.0, 0.0])
    assert pass_at_k(4, np.array([0, 1, 2]), 1).tolist() == [0.0, 0.25, 0.5]
    assert pass_at_k(np.array([], int), np.array([], int), 1).shape == (0,)


@pytest.mark.parametrize("n, c, k", [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5), ([4, 2], [1, 1], 3)])
def test_pass_at_k_refuses_impossible_counts(n, c, k):
    with pytest.raises(ValueError, match="Received: n="):
        pass_at_k(n, c, k)


# === Tables ===


def test_by_puzzle_by_hand():
    puzzles = by_puzzle(TABLE, ["num_numbers", "difficulty"])
    assert puzzles.index.tolist() == [0, 1, 2, 3]
    assert puzzles["num_numbers"].tolist() == [3, 3, 4, 4]
    assert puzzles["samples"].tolist() == [2, 2, 2, 2]
    assert puzzles["correct"].tolist() == [1, 0, 2, 1]
    assert puzzles["accuracy"].tolist() == [0.5, 0.0, 1.0, 0.5]
    np.testing.assert_allclose(puzzles["mean_reward"], [0.55, 0.1, 1.0, 0.55])
    assert puzzles["mean_completion_length"].tolist() == [10.5, 20.5, 30.5, 40.5]
    assert pass_at_k(puzzles["samples"], puzzles["correct"], 2).mean() == 0.75


def test_by_puzzle_keeps_the_order_of_the_table():
    assert by_puzzle(TABLE.iloc[::-1]).index.tolist() == [3, 2, 1, 0]


def test_summarize_by_hand():
    summary = summarize(TABLE)
    low, high = summary.pop("ci95")
    assert summary == {
        "accuracy": 0.5,
        "n": 4,
        "samples": 2,
        "format_rate": 0.5,
        "mean_completion_length": 25.5,
        "mean_attempts": 0.5,
        "mean_verifications": 1.0,
        "mean_backtracks": 0.0,
        "mean_self_corrections": 0.0,
        "mean_slips": 1.0,
    }
    assert (low, high) == bootstrap_interval([0.5, 0.0, 1.0, 0.5])
    assert 0 <= low < 0.5 < high <= 1


def test_summarize_is_json_as_it_stands():
    assert json.loads(json.dumps(summarize(TABLE))) == summarize(TABLE)


def test_the_interval_is_over_puzzles_and_not_over_completions():
    # 50 puzzles, half of them always solved: 64 completions of each instead of 1 say nothing about other puzzles.
    solved = [puzzle % 2 == 0 for puzzle in range(50)]
    once, often = (summarize(table_of([[right] * samples for right in solved]))["ci95"] for samples in (1, 64))
    assert once == often


def test_by_label_by_hand():
    table = by_label(TABLE, ["num_numbers", "difficulty"])
    assert table[["num_numbers", "difficulty", "n", "accuracy"]].to_dict("list") == {
        "num_numbers": [3, 3, 4],
        "difficulty": [1, 2, 1],
        "n": [1, 1, 2],
        "accuracy": [0.5, 0.0, 0.75],
    }
    assert table[["ci95_low", "ci95_high"]].iloc[2].tolist() == [0.5, 1.0]
    # One puzzle, solved once in two or never: 0.025 of all puzzles may be like it.
    assert table[["ci95_low", "ci95_high"]].iloc[0].tolist() == pytest.approx([0.5 * 0.025, 1 - 0.5 * 0.025])
    assert table[["ci95_low", "ci95_high"]].iloc[1].tolist() == pytest.approx([0.0, 0.975])


def test_by_label_takes_one_label_and_agrees_with_summarize():
    table = by_label(TABLE, "num_numbers", seed=5)
    expected = summarize(TABLE[TABLE["num_numbers"] == 4], seed=5)
    row = table[table["num_numbers"] == 4].iloc[0].to_dict()
    assert [row.pop("ci95_low"), row.pop("ci95_high")] == expected.pop("ci95")
    assert row == {"num_numbers": 4, **expected}
    assert table["n"].sum() == 4


def test_tables_that_cannot_be_summed_up_are_refused():
    with pytest.raises(ValueError, match=r"Received: missing=\['well_formed'\]"):
        summarize(TABLE.drop(columns="well_formed"))
    with pytest.raises(ValueError, match=r"Received: missing=\['nonsense'\]"):
        by_label(TABLE, "nonsense")
    with pytest.raises(ValueError, match=r"Received: completions a puzzle=\[1, 2\]"):
        summarize(TABLE.iloc[1:])
    with pytest.raises(ValueError, match=r"Received: completions a puzzle=\[\]"):
        summarize(TABLE.iloc[:0])
    with pytest.raises(ValueError, match="Received: column='sample'"):
        by_label(TABLE, "sample")
    with pytest.raises(ValueError, match="at least one label"):
        by_label(TABLE, [])


# === Behaviours ===


def counted(*rows):
    """A table of `(puzzle, correct, attempts)`, one a completion; slips are attempts less one."""
    table = pd.DataFrame(rows, columns=["puzzle", "correct", "attempts"])
    rest = dict(verifications=0, backtracks=0, self_corrections=0, completion_length=10)
    return table.assign(problem="problem " + table["puzzle"].astype(str), slips=table["attempts"] - 1, **rest)


BEFORE = counted((0, True, 1), (0, False, 3), (1, False, 1), (1, False, 2))
AFTER = counted((0, True, 5), (0, True, 7), (1, True, 9), (1, False, 1))


def rate(rates, completions, behaviour, column):
    (row,) = rates[(rates["completions"] == completions) & (rates["behaviour"] == behaviour)].to_dict("records")
    return [row[name] for name in (column, f"{column}_low", f"{column}_high", f"{column}_puzzles")]


def test_behaviour_rates_by_hand():
    rates = behaviour_rates(BEFORE, AFTER)
    assert len(rates) == 3 * (len(BEHAVIOURS) + 1)
    # Two puzzles: a resample has the first twice, the second twice, or both.
    assert rate(rates, "all", "attempts", "before") == [1.75, 1.5, 2.0, 2]
    assert rate(rates, "all", "attempts", "after") == [5.5, 5.0, 6.0, 2]
    assert rate(rates, "all", "attempts", "change") == [3.75, 3.5, 4.0, 2]
    # Right before: the first puzzle alone, once. Right after: 6 and 9. In both: the first puzzle, from 1 to 6.
    assert rate(rates, "correct", "attempts", "before") == [1.0, 1.0, 1.0, 1]
    assert rate(rates, "correct", "attempts", "after") == [7.5, 6.0, 9.0, 2]
    assert rate(rates, "correct", "attempts", "change") == [5.0, 5.0, 5.0, 1]
    # Wrong before: 3 and 1.5. Wrong after: the second puzzle alone.
    assert rate(rates, "wrong", "attempts", "before") == [2.25, 1.5, 3.0, 2]
    assert rate(rates, "wrong", "attempts", "change") == [-0.5, -0.5, -0.5, 1]
    assert rate(rates, "all", "slips", "after") == [4.5, 4.0, 5.0, 2]
    assert rate(rates, "all", "completion_length", "change") == [0.0, 0.0, 0.0, 2]


def test_an_untrained_policy_has_no_change():
    rates = behaviour_rates(BEFORE, BEFORE.iloc[::-1])
    assert (rates["before"] == rates["after"]).all() and (rates["change"] == 0).all()


def test_rates_of_no_completions_are_missing():
    rates = behaviour_rates(counted((0, False, 1)), counted((0, True, 3)))
    for completions, column in (("correct", "before"), ("correct", "change"), ("wrong", "after"), ("wrong", "change")):
        *numbers, puzzles = rate(rates, completions, "attempts", column)
        assert np.isnan(numbers).all() and puzzles == 0


def test_rates_of_different_puzzles_are_refused():
    other = counted((0, True, 1), (2, True, 1))
    with pytest.raises(ValueError, match="Received: 1 puzzles before only, 1 after only, e.g. 'problem 1'"):
        behaviour_rates(BEFORE, other)
    with pytest.raises(ValueError, match="Received: 2 puzzles before only, 2 after only"):
        behaviour_rates(BEFORE, AFTER.assign(problem="another"))
    with pytest.raises(ValueError, match=r"Received: missing=\['problem', 'slips'\]"):
        behaviour_rates(BEFORE, AFTER.drop(columns=["slips", "problem"]))


def test_behaviours_of_an_older_table_are_counted_in_its_texts():
    older = table_of([[True, False]])[["puzzle", "text", "attempts"]].assign(text=["1+1=3 no\n1+2=3 yes", ""])
    table = with_behaviours(older.iloc[::-1])
    assert table["puzzle"].tolist() == [0, 0]
    assert table[list(BEHAVIOURS)].to_numpy().tolist() == [[0, 0, 0, 0, 0], [2, 2, 1, 0, 1]]
    assert set(BEHAVIOURS) <= set(with_behaviours(older.iloc[:0]))
