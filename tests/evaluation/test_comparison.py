import itertools
import json
import math

from keras_aha.evaluation.comparison import accuracy_curve, compare, sign_flip_p_value
from keras_aha.evaluation.intervals import bootstrap_interval
from keras_aha.evaluation.tables import summarize

import numpy as np
import pytest
from evaluation.test_tables import table_of
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-5, 5), max_size=9))
def test_the_test_equals_all_choices_of_signs(differences):
    choices = itertools.product((-1, 1), repeat=len(differences))
    sums = [abs(np.dot(signs, differences)) for signs in choices]
    expected = np.mean([s >= abs(sum(differences)) for s in sums])
    assert sign_flip_p_value(differences) == pytest.approx(expected, abs=1e-12)


def test_with_differences_of_one_it_is_the_sign_test():
    ways = sum(math.comb(1000, b) for b in range(550, 1001))
    assert sign_flip_p_value([1] * 550 + [-1] * 450 + [0] * 99) == pytest.approx(2 * ways / 2**1000, rel=1e-9)
    assert sign_flip_p_value([3] * 60) == 2.0**-59  # exact, however small


def test_compare_by_hand():
    first = table_of([[True, True], [True, False], [False, False], [True, True]])
    second = table_of([[True, False, False, False], [False] * 4, [False] * 4, [True] * 4])
    comparison = compare(first, second.iloc[::-1])
    assert json.loads(json.dumps(comparison)) == comparison
    expected = {"difference": 0.3125, "n": 4, "better": 2, "worse": 0, "p_value": 0.5}
    assert comparison == expected | {"ci95": list(bootstrap_interval([0.75, 0.5, 0.0, 0.0]))}


def test_the_interval_is_that_of_pairs():
    # Half of the puzzles are solved by both, and one in ten by the first alone: only those ten are uncertain.
    first = table_of([[True]] * 60 + [[False]] * 40)
    second = table_of([[True]] * 50 + [[False]] * 50)
    low, high = compare(first, second)["ci95"]
    assert 0.03 < low < 0.06 and 0.15 < high < 0.17
    same = {"difference": 0.0, "ci95": [0.0, 0.0], "p_value": 1.0, "n": 100, "better": 0, "worse": 0}
    assert compare(first, first) == same
    swapped = compare(second, first)
    assert swapped["difference"] == pytest.approx(-0.1) and swapped["p_value"] == compare(first, second)["p_value"]


def test_other_puzzles_are_refused():
    table = table_of([[True], [False]])
    with pytest.raises(ValueError, match="Received: 2 and 1 puzzles, 1 of them in both"):
        compare(table, table.iloc[:1])
    with pytest.raises(ValueError, match=r"Received: \[\[1\], \[2, 1\]\]"):
        compare(table, table_of([[True, True], [False]]))


def test_a_curve_has_a_row_a_table():
    first = table_of([[True, False], [False, False], [False, False]])
    second = table_of([[True, True], [True, False], [False, False]]).assign(completion_length=30)
    curve = accuracy_curve([first, second], seed=3)
    assert curve["tokens"].tolist() == [20.5, 30] and curve["accuracy"].tolist() == [1 / 6, 0.5]
    assert curve.loc[1, ["ci95_low", "ci95_high"]].tolist() == summarize(second, seed=3)["ci95"]
    gain = compare(second, first, seed=3)
    gains = curve[["gain", "gain_low", "gain_high", "p_value"]].to_numpy().tolist()
    assert gains == [[0, 0, 0, 1], [gain["difference"], *gain["ci95"], gain["p_value"]]]
