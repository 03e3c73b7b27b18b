import json

from keras_aha.evaluation.intervals import bootstrap_interval
from keras_aha.evaluation.table_file import read_tables, write_tables
from keras_aha.evaluation.tables import BEHAVIOURS, behaviour_rates, by_label, by_puzzle, summarize, with_behaviours
from keras_aha.evaluation.transcript import transcript
from keras_aha.tasks.turn import Observation, Turn, said

import numpy as np
import pandas as pd
import pytest


def table_of(correct, **labels):
    """One row a completion; `correct` holds one list a puzzle, `labels` one value a puzzle."""
    return pd.DataFrame(
        {
            **{"puzzle": puzzle, "sample": sample, "text": "", "reward": 1.0 if right else 0.1, "correct": right},
            **{"verdict": "correct" if right else "no_answer", "well_formed": right, "stopped": True},
            "completion_length": 10 * (puzzle + 1) + sample,
            **{"attempts": sample, "verifications": 2 * sample, "backtracks": 0, "self_corrections": 0, "slips": 1},
            **{name: values[puzzle] for name, values in labels.items()},
        }
        for puzzle, row in enumerate(correct)
        for sample, right in enumerate(row)
    )


SOLVED = [[True, False], [False, False], [True, True], [True, False]]
TABLE = table_of(SOLVED, num_numbers=[3, 3, 4, 4], difficulty=[1, 2, 1, 1])


def test_by_puzzle_by_hand():
    puzzles = by_puzzle(TABLE, ["num_numbers", "difficulty"])
    expected = pd.DataFrame({"num_numbers": [3, 3, 4, 4], "difficulty": [1, 2, 1, 1]}, pd.RangeIndex(4, name="puzzle"))
    expected = expected.assign(samples=2, correct=[1, 0, 2, 1], accuracy=[0.5, 0.0, 1.0, 0.5])
    expected = expected.assign(format_rate=expected["accuracy"], mean_reward=[0.55, 0.1, 1.0, 0.55])
    expected["mean_completion_length"] = [10.5, 20.5, 30.5, 40.5]
    pd.testing.assert_frame_equal(puzzles[expected.columns], expected)
    assert by_puzzle(TABLE.iloc[::-1]).index.tolist() == [3, 2, 1, 0]


def test_summarize_by_hand():
    summary = summarize(TABLE)
    assert json.loads(json.dumps(summary)) == summary
    means = dict(attempts=0.5, verifications=1.0, backtracks=0.0, self_corrections=0.0, slips=1.0)
    expected = {"accuracy": 0.5, "n": 4, "samples": 2, "format_rate": 0.5, "mean_completion_length": 25.5}
    expected |= {f"mean_{name}": mean for name, mean in means.items()}
    assert summary == expected | {"ci95": list(bootstrap_interval([0.5, 0.0, 1.0, 0.5]))}


def test_lenient_accuracy_stands_beside_accuracy_if_scores_tell():
    table = TABLE.assign(lenient=[True, True, True, False, True, True, True, False])
    assert summarize(table) == summarize(TABLE) | {"lenient_accuracy": 0.75}
    assert by_label(table, "num_numbers")["lenient_accuracy"].tolist() == [0.75, 0.75]


def test_turns_have_means_and_observations_no_behaviours(tmp_path):
    """Of a table as a file gives it back, in which one puzzle's task does not answer."""
    call = [Turn("3*4 is?", Observation("wait, 3*4=12 no\n3+4=7 yes", tool="calculator")), Turn("3*4=12 yes")]
    columns = dict(text=said(call), transcript=transcript(call), turns=[2.0] * 6 + [np.nan] * 2)
    columns |= dict(tool_calls=[1.0, 0] * 3 + [np.nan] * 2, tool_errors=np.nan, observation_tokens=9.0)
    table = with_behaviours(TABLE.assign(**columns))
    assert (table["attempts"].unique(), table["backtracks"].unique()) == (1, 0)
    write_tables(tmp_path / "tables.jsonl", table, table[::2])
    sampled, greedy = read_tables(tmp_path / "tables.jsonl")
    pd.testing.assert_frame_equal(sampled, table)
    means = {"mean_turns": 2.0, "mean_tool_calls": 0.5, "mean_observation_tokens": 9.0}
    assert means.items() <= summarize(sampled).items() and "mean_tool_errors" not in summarize(sampled)
    assert by_label(sampled, "num_numbers")["mean_turns"].tolist() == [2, 2]
    assert not any(name.startswith("mean_tool") for name in summarize(TABLE))


def test_other_rewards_have_means_without_their_failures():
    judged = TABLE.assign(reward_a=[1.0, 0.0, np.nan, 0.5, np.nan, np.nan, 2, 2], reward_b=np.nan, reward_kind="label")
    assert summarize(judged) == summarize(TABLE) | {"mean_reward_a": 1.0}
    assert by_label(judged, "num_numbers")["mean_reward_a"].tolist() == [0.5, 2.0]


def test_the_interval_is_over_puzzles_and_not_over_completions():
    # 50 puzzles, half of them always solved: 64 completions of each instead of 1 say nothing about other puzzles.
    solved = [puzzle % 2 == 0 for puzzle in range(50)]
    once, often = (summarize(table_of([[right] * samples for right in solved]))["ci95"] for samples in (1, 64))
    assert once == often


def test_by_label_by_hand():
    table = by_label(TABLE, ["num_numbers", "difficulty"])
    labels = {"num_numbers": [3, 3, 4], "difficulty": [1, 2, 1]}
    assert table[[*labels, "n", "accuracy"]].to_dict("list") == labels | {"n": [1, 1, 2], "accuracy": [0.5, 0.0, 0.75]}


def test_by_label_takes_one_label_and_agrees_with_summarize():
    table = by_label(TABLE, "num_numbers", seed=5)
    expected = summarize(TABLE[TABLE["num_numbers"] == 4], seed=5)
    row = table[table["num_numbers"] == 4].iloc[0].to_dict()
    assert [row.pop("ci95_low"), row.pop("ci95_high")] == expected.pop("ci95")
    assert row == {"num_numbers": 4, **expected}


@pytest.mark.parametrize(
    "table, columns, sentence",
    [
        (TABLE.drop(columns="well_formed"), "difficulty", r"Received: missing=\['well_formed'\]"),
        (TABLE, "nonsense", r"Received: missing=\['nonsense'\]"),
        (TABLE.iloc[1:], "difficulty", r"Received: completions a puzzle=\[1, 2\]"),
        (TABLE, "sample", "Received: column='sample'"),
        (TABLE, [], "at least one label"),
    ],
)
def test_tables_that_cannot_be_summed_up_are_refused(table, columns, sentence):
    with pytest.raises(ValueError, match=sentence):
        by_label(table, columns)
    with pytest.raises(ValueError, match=r"Received: completions a puzzle=\[\]"):
        summarize(TABLE.iloc[:0])


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
    rates = behaviour_rates(BEFORE, AFTER.iloc[::-1])
    assert len(rates) == 3 * (len(BEHAVIOURS) + 1)
    for completions, behaviour, column, expected in [
        # Two puzzles: a resample has the first twice, the second twice, or both.
        ("all", "attempts", "before", [1.75, 1.5, 2.0, 2]),
        ("all", "attempts", "change", [3.75, 3.5, 4.0, 2]),
        # Right before: the first puzzle alone, once. Right after: 6 and 9. In both: the first puzzle, from 1 to 6.
        ("correct", "attempts", "before", [1.0, 1.0, 1.0, 1]),
        ("correct", "attempts", "after", [7.5, 6.0, 9.0, 2]),
        ("correct", "attempts", "change", [5.0, 5.0, 5.0, 1]),
        # Wrong before: 3 and 1.5. Wrong after: the second puzzle alone.
        ("wrong", "attempts", "before", [2.25, 1.5, 3.0, 2]),
        ("wrong", "attempts", "change", [-0.5, -0.5, -0.5, 1]),
        ("all", "slips", "after", [4.5, 4.0, 5.0, 2]),
        ("all", "completion_length", "change", [0.0, 0.0, 0.0, 2]),
    ]:
        assert rate(rates, completions, behaviour, column) == expected


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
    with pytest.raises(ValueError, match=r"Received: missing=\['slips', 'problem'\]"):
        behaviour_rates(BEFORE, AFTER.drop(columns=["slips", "problem"]))


def test_behaviours_are_counted_in_texts():
    bare = table_of([[True, False]])[["puzzle", "text"]].assign(text=["1+1=3 no\n1+2=3 yes", ""])
    table = with_behaviours(bare.iloc[::-1])
    assert table[list(BEHAVIOURS)].to_numpy().tolist() == [[0, 0, 0, 0, 0], [2, 2, 1, 0, 1]]
    assert set(BEHAVIOURS) <= set(with_behaviours(bare.iloc[:0]))
