import dataclasses
import itertools

from keras_aha.callbacks.evaluate_callback import EvaluateCallback
from keras_aha.callbacks.rollout_callback import RolloutCallback
from keras_aha.evaluation.tables import BEHAVIOURS, summarize, with_behaviours
from keras_aha.models.special_tokens import TURN_ENDS
from keras_aha.tasks import Countdown
from keras_aha.tasks.task import Score
from keras_aha.training import budget_forcing
from keras_aha.training.grpo_model import GRPOModel

import pandas as pd
import pytest
from digit_hunt import COUNTDOWN

LENGTH = 8


@pytest.fixture(scope="module")
def model(make_policy):
    return GRPOModel(make_policy())


@pytest.fixture(scope="module")
def held_out():
    return Countdown(**COUNTDOWN).held_out(5)


def callback_of(held_out, **changes):
    return EvaluateCallback(held_out, **{"samples": 2, "max_completion_length": LENGTH, "max_rows": 4} | changes)


@pytest.fixture(scope="module")
def sampled(model, held_out):
    return callback_of(held_out).evaluate(model)


def test_one_row_a_completion(model, held_out, sampled):
    assert sampled["puzzle"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert sampled["sample"].tolist() == [0, 1] * 5
    assert sampled["completion_length"].between(1, LENGTH).all()
    assert (sampled["stopped"] | (sampled["completion_length"] == LENGTH)).all()
    for row in sampled.itertuples():
        problem = held_out.problem(row.puzzle)
        score = held_out.score(problem, row.text)
        assert (row.reward, row.correct, row.verdict) == (score.reward, score.correct, score.verdict)
        assert (row.problem, row.difficulty) == (str(problem), problem.difficulty)
    pd.testing.assert_frame_equal(with_behaviours(sampled), sampled)
    assert set(BEHAVIOURS) < set(sampled)
    assert sampled["text"].nunique() == len(sampled)  # a random policy hardly writes the same eight tokens twice


def test_completions_depend_on_the_seed_and_not_on_how_many_are_decoded_at_a_time(model, held_out, sampled):
    for max_rows in (2, 256):
        pd.testing.assert_frame_equal(callback_of(held_out, max_rows=max_rows).evaluate(model), sampled)
    assert callback_of(held_out, seed=1).evaluate(model)["text"].tolist() != sampled["text"].tolist()
    prompt = model.tokenize([held_out.prompt(held_out.problem(0))], 16)
    training = model.generate(*prompt, group_size=4, max_completion_length=LENGTH, iteration=0)
    assert not set(model.detokenize(training)) & set(sampled["text"])  # training draws others


def test_all_problems_are_in_one_call(model, held_out, monkeypatch):
    """Which compiles its programs when it is the first of its kind; a greedy one draws nothing."""
    calls, generate = [], model.generate

    def spy(token_ids, padding_mask, **settings):
        calls.append((len(token_ids), settings["group_size"], settings["max_rows"], settings["warm_up"]))
        return generate(token_ids, padding_mask, **settings | {"warm_up": False})

    monkeypatch.setattr(model, "generate", spy)
    callback = callback_of(held_out)
    tables = [callback.evaluate(model, greedy=greedy) for greedy in (False, False, True, True)]
    assert tables[3]["sample"].tolist() == [0] * 5
    pd.testing.assert_frame_equal(callback_of(held_out, seed=7).evaluate(model, greedy=True), tables[3])
    assert calls == [(5, 2, 4, True), (5, 2, 4, False), (5, 1, 4, True), (5, 1, 4, False), (5, 1, 4, True)]


def test_stops_reach_the_sampler(model, held_out, sampled):
    """Given, or from rollouts."""
    stops = dict(stop_tokens=tuple("abcd"), stop_strings=("e",))
    table = callback_of(held_out, **stops).evaluate(model)
    assert table["completion_length"].sum() < sampled["completion_length"].sum()
    assert table["text"].str.contains("e").any() and not table["text"].str.contains("e").all()
    rollouts = RolloutCallback(Countdown(**COUNTDOWN), max_completion_length=LENGTH, **stops)
    pd.testing.assert_frame_equal(EvaluateCallback(held_out, rollouts=rollouts, samples=2).evaluate(model), table)


def test_length_stops_and_rows_of_rollouts_unless_others_are_given(held_out):
    def sampling(max_rows=None, **settings):
        rollouts = RolloutCallback(held_out, max_rows=max_rows, stop_strings=("x",), prompts_per_epoch=3, group_size=2)
        return EvaluateCallback(held_out, rollouts=rollouts, **settings).sampling

    own = {name: value for name, value in sampling().items() if name not in ("seed", "iteration")}
    assert own == dict(max_completion_length=1024, stop_tokens=TURN_ENDS, stop_strings=("x",), max_rows=6)
    assert sampling(max_rows=5)["max_rows"] == 5
    given = dict(max_completion_length=9, stop_tokens=("a",), stop_strings=(), max_rows=7)
    assert sampling(**given) == sampling() | given


def test_logs_of_every_second_epoch_and_of_the_last(model, held_out, sampled):
    model.stop_training = False  # as `fit` sets it
    callback = callback_of(held_out, every=2)
    callback.set_model(model)
    callback.set_params({"epochs": 5})
    logs = [{} for _ in range(5)]
    for epoch in range(5):
        callback.on_epoch_end(epoch, logs[epoch])
    assert [bool(entry) for entry in logs] == [False, True, False, True, True]
    assert logs[4]["val_accuracy"] == sampled["correct"].mean()
    assert logs[4]["val_completion_length"] == sampled["completion_length"].mean()
    others = {"val_accuracy", "val_greedy_accuracy", "val_format_rate", "val_completion_length", "evaluation_seconds"}
    assert set(logs[4]) == others | {f"val_{name}" for name in (*BEHAVIOURS, "accuracy_low", "accuracy_high")}
    assert [logs[4]["val_accuracy_low"], logs[4]["val_accuracy_high"]] == summarize(sampled)["ci95"]
    epoch, latest, greedy = callback.latest
    assert epoch == 4 and len(greedy) == 5
    pd.testing.assert_frame_equal(latest, sampled)
    model.stop_training = True  # a run that is stopped ends with an evaluation
    callback.on_epoch_end(2, {})
    assert callback.latest[0] == 2


class Lenient(Countdown):
    """Half of its problems tell."""

    def score(self, problem, completion):
        return dataclasses.replace(super().score(problem, completion), lenient=problem.target % 2 == 0 or None)


def test_a_lenient_accuracy_stands_beside_the_strict_one_if_scores_tell(model):
    held_out = Lenient(**COUNTDOWN).held_out(8)
    callback = callback_of(held_out, greedy=False)
    callback.set_model(model)
    callback.set_params({"epochs": 1})
    callback.on_epoch_end(0, logs := {})
    table = callback.latest[1]
    tells = [held_out.problem(puzzle).target % 2 == 0 for puzzle in table["puzzle"]]
    assert table["lenient"].dtype == bool and table["lenient"].tolist() == tells and 0 < sum(tells) < 16
    assert logs["val_lenient_accuracy"] == sum(tells) / 16 and logs["val_accuracy"] == 0


def test_other_rewards_stand_beside_the_tasks(model, held_out, sampled):
    """A judge gets those of a problem side by side; what it fails on is in no mean, and right or wrong as ever."""
    calls = []

    def judge(problems, completions):
        calls.append([id(problem) for problem in problems])
        return [None if i == 3 else len(text) for i, text in enumerate(completions)]

    rewards = {"long": (judge, 0.5), "broken": (lambda problem, completion: 1 / 0, 0.0)}
    rollouts = RolloutCallback(Countdown(**COUNTDOWN), max_completion_length=LENGTH, rewards=rewards)
    callback = EvaluateCallback(held_out, rollouts=rollouts, samples=2)
    callback.set_model(model)
    callback.set_params({"epochs": 1})
    with pytest.warns(UserWarning, match="A reward failed") as caught:
        callback.on_epoch_end(0, logs := {})
    assert len(caught) == 2 and calls == [[id(held_out.problem(i)) for i in range(5) for _ in range(2)]]
    _, table, greedy = callback.latest
    pd.testing.assert_frame_equal(table.drop(columns=["reward_long", "reward_broken"]), sampled)
    long = sampled["text"].str.len().astype("float64").mask(sampled.index == 3)
    pd.testing.assert_series_equal(table["reward_long"], long, check_names=False)
    assert table["reward_broken"].isna().all() and not any(name.startswith("reward_") for name in greedy)
    assert logs["val_reward_long"] == pytest.approx(long.groupby(table["puzzle"]).mean().mean())
    assert "val_reward_broken" not in logs
    assert not EvaluateCallback(held_out, rollouts=rollouts, rewards={}).grader.rewards


@pytest.mark.parametrize("unchecked", [(0, 2), range(5)])
def test_problems_without_a_checker_are_neither_right_nor_wrong(model, held_out, monkeypatch, unchecked):
    unchecked = {held_out.problem(i) for i in unchecked}
    scores = {True: Score(0.0, False, "unchecked"), False: Score(1.0, True, "correct")}
    monkeypatch.setattr(held_out, "score", lambda problem, text: scores[problem in unchecked])
    callback = callback_of(held_out)
    callback.set_model(model)
    callback.set_params({"epochs": 1})
    callback.on_epoch_end(0, logs := {})
    shares = {logs[name] for name in logs if name.endswith(("accuracy", "accuracy_high", "format_rate"))}
    assert shares == ({1.0} if len(unchecked) == 2 else set()) and logs["val_completion_length"] > 0


def test_thinking_goes_on(model, held_out, sampled, monkeypatch):
    """Behind what was thought; the others stay as they are."""
    monkeypatch.setattr(budget_forcing, "THINK_END", "1")
    tables = list(callback_of(held_out).evaluate_waits(model, 2, "W"))
    pd.testing.assert_frame_equal(tables[0].drop(columns="thought_on"), sampled)
    assert tables[0]["thought_on"].tolist() == [0] * 10
    for before, after in itertools.pairwise(tables):
        going = after["thought_on"] > before["thought_on"]
        assert going.any() and not going.all()
        pd.testing.assert_frame_equal(after[~going], before[~going])
        assert after["completion_length"].between(1, LENGTH).all()
        for old, new in zip(before["text"][going], after["text"][going], strict=True):
            end = old.index("1")  # or up to two digits sooner, as in 21
            assert any(new.startswith(f"{old[: max(end - digits, 0)]}W") for digits in range(3))
    fewer_at_a_time = callback_of(held_out, max_rows=2).evaluate_waits(model, 2, "W")
    for table, expected in zip(fewer_at_a_time, tables, strict=True):
        pd.testing.assert_frame_equal(table, expected)
    monkeypatch.setattr(model, "generate", None)  # before anything is sampled
    with pytest.raises(ValueError, match="Received: 'Wäit'"):
        next(callback_of(held_out).evaluate_waits(model, 1, "Wäit"))


def test_a_score_that_fails_counts_as_not_solved(model, held_out, sampled, monkeypatch):
    calls, score = itertools.count(), held_out.score  # the second completion of each puzzle has none
    monkeypatch.setattr(held_out, "score", lambda *args: None if next(calls) % 2 else score(*args))
    with pytest.warns(UserWarning, match="score returned None, which is no Score") as caught:
        table = callback_of(held_out).evaluate(model)
    assert len(caught) == 1
    assert (table["verdict"] == "error").tolist() == table["reward"].isna().tolist() == [False, True] * 5
    assert not table["correct"][1::2].any()
    others = [name for name in sampled if name not in ("reward", "correct", "verdict", "well_formed")]
    pd.testing.assert_frame_equal(table[others], sampled[others])
    with pytest.raises(RuntimeError, match='on_reward_error is "stop"'):
        callback_of(held_out, on_reward_error="stop").evaluate(model)


def test_a_label_that_is_no_unicode_becomes_text(model, held_out, monkeypatch):
    """No table of pandas could hold it."""
    monkeypatch.setattr(held_out, "labels", lambda problem: {"kind": "a\ud800", "difficulty": 1})
    table = callback_of(held_out).evaluate(model, greedy=True)
    assert set(table["kind"]) == {"a\\ud800"} and set(table["difficulty"]) == {1}


@pytest.mark.parametrize("name, value", [("every", 0), ("temperature", 0.0), ("max_completion_length", None)])
def test_arguments_are_checked(held_out, name, value):
    with pytest.raises(ValueError, match=f"`{name}`.*Received: .*{name}={value}"):
        callback_of(held_out, **{name: value})
