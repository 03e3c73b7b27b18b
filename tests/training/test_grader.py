"""Rewards of Countdown completions and of functions beside the task, all worked out by hand."""

import asyncio
import gc
import math
import sys
import threading
import time
import tracemalloc
import warnings
from fractions import Fraction

from keras_aha.tasks.countdown import Countdown, CountdownProblem
from keras_aha.tasks.mixture import Mixture
from keras_aha.tasks.task import Score
from keras_aha.training.ask import TaskError
from keras_aha.training.grader import Grader, groups_with_signal, reward_logs
from keras_aha.training.judges.judge import Judge

import jax.numpy as jnp
import keras
import numpy as np
import pytest

PROBLEM = CountdownProblem((3, 4), 7)
TEXTS = ["<answer>3+4</answer>", "<answer>3*4</answer>", "well"]  # 1.0, 0.1 and 0.0, of 20, 20 and 4 characters
LENGTHS = np.array([8, 6, 2])


@pytest.fixture(scope="module")
def task():
    return Countdown(num_numbers=2)


def grade(task, rewards=None, penalties=None, reported=None, **settings):
    grader = Grader(task, rewards, penalties, **settings)
    scores, rewards = grader.grade([PROBLEM] * 3, TEXTS, LENGTHS, {} if reported is None else reported)
    return scores, rewards["reward"], reward_logs(scores, rewards)


def brevity(problem, completion):
    return -len(completion) / 10


def names_the_target(problem, completion):
    return str(problem.target) in completion


def fails_on_well(problem, completion):
    return 1.0 if completion != "well" else 1 / 0


def raises(error):
    raise error


class Unspeakable(BaseException):
    """An error without words."""

    __repr__ = __str__ = None


class Fragile(Countdown):
    """Fails on what holds no answer."""

    def __init__(self, failure):
        super().__init__(num_numbers=2)
        self.failure = failure

    def score(self, problem, completion):
        return self.failure() if completion == "well" else super().score(problem, completion)


def test_the_tasks_score_alone(task):
    scores, rewards, logs = grade(task)
    assert [score.verdict for score in scores] == ["correct", "wrong_value", "no_answer"]
    assert rewards.dtype == "float32"
    np.testing.assert_array_equal(rewards, np.array([1.0, 0.1, 0.0], "float32"))
    expected = {"reward": 1.1 / 3, "accuracy": 1 / 3, "format_rate": 2 / 3, "failed_rewards": 0.0}
    assert logs == pytest.approx(expected) and logs.keys() == expected.keys()


def test_rewards_add_up_by_their_weights(task):
    rewards = {"brevity": (brevity, 0.25), "target": (names_the_target, -1), "logged": (lambda *_: 5, 0)}
    seen = []
    rewards["spy"] = (lambda *row: seen.append(row) or 0, 1)
    _, rewards, logs = grade(task, rewards, np.array([0, 0, 0, 0, 0, 0, -0.5, -0.75, -1], "float32"))
    np.testing.assert_allclose(rewards, [1.0 - 0.5 - 1, 0.1 - 0.5 - 0.5, 0.0 - 0.1], rtol=1e-6)
    expected = {"reward": -0.5, "task_reward": 1.1 / 3, "reward_brevity": -4.4 / 3, "reward_target": 0.0}
    expected |= {"reward_logged": 5.0, "overlong_penalty": -0.5, "failed_rewards": 0.0}
    assert {name: logs[name] for name in expected} == pytest.approx(expected, abs=1e-7)
    assert seen == [(PROBLEM, text) for text in TEXTS]


def test_the_tasks_own_reward_may_have_another_weight(task):
    _, rewards, logs = grade(task, {"brevity": (brevity, 0.25)}, task_weight=0)
    np.testing.assert_allclose(rewards, [-0.5, -0.5, -0.1], rtol=1e-6)
    assert (logs["task_reward"], logs["accuracy"]) == pytest.approx((1.1 / 3, 1 / 3))


def test_sums_that_are_equal_on_paper_are_equal(task):
    """0.1 + 3·0.3 and 1.0 + 3·0.0, which differ in binary."""
    _, rewards, _ = grade(task, {"x": (lambda problem, text: {TEXTS[1]: 0.3}.get(text, 0.0), 3)})
    assert rewards[0] == rewards[1] == 1.0 != 0.1 + 3 * 0.3


def test_one_that_raises_costs_that_completion_only(task):
    with pytest.warns(UserWarning) as caught:
        _, rewards, logs = grade(task, {"x": (fails_on_well, 2), "brevity": (brevity, 0.25)})
    np.testing.assert_allclose(rewards, [2.5, 1.6, np.nan])
    expected = {"failed_rewards": 1 / 3, "reward": 4.1 / 2, "reward_x": 1.0, "reward_brevity": -4.4 / 3}
    assert {name: logs[name] for name in expected} == pytest.approx(expected)
    assert [str(warning.message) for warning in caught] == [
        "A reward failed, so its completion has none, as any other where it fails: The reward 'x' raised "
        "ZeroDivisionError('division by zero'). Received: problem=CountdownProblem(numbers=(3, 4), target=7), "
        "completion='well'"
    ]


NO_NUMBERS = [math.nan, -math.inf, 1e39, None, "1.0", b"1", np.complex64(1j), {}, object]
LISTS = [[1.0], (), np.array([1.0]), jnp.array([1.0, 2.0]), keras.ops.ones(1)]


@pytest.mark.parametrize("value", [*NO_NUMBERS, *LISTS], ids=repr)
def test_what_is_no_finite_number_fails(task, value):
    with pytest.warns(UserWarning, match="The reward 'x' returned .*, which is no finite number. Received: problem="):
        _, rewards, logs = grade(task, {"x": (lambda problem, text: value if text == TEXTS[0] else 0, 1)})
    np.testing.assert_allclose(rewards, [np.nan, 0.1, 0.0])
    assert logs["failed_rewards"] == pytest.approx(1 / 3)


def test_numbers_of_any_kind_are_taken(task):
    for value in (True, 1, np.float32(1), np.array(1.0), np.True_, jnp.float32(1), Fraction(1)):
        np.testing.assert_allclose(grade(task, {"x": (lambda *_, value=value: value, 1)})[1], [2.0, 1.1, 1.0])


def test_each_is_reported_once(task):
    rewards = {"all": (lambda problem, text: 1 / 0, 1), "one": (fails_on_well, 1)}
    reported = {}
    with pytest.warns(UserWarning) as caught:
        _, total, logs = grade(task, rewards, reported=reported)
    assert len(caught) == 2 and list(reported) == ["The reward 'all'", "The reward 'one'"]
    assert TEXTS[0] in str(caught[0].message) and "'well'" in str(caught[1].message)
    assert np.isnan(total).all()
    assert math.isnan(logs["reward"]) and math.isnan(logs["reward_all"]) and logs["failed_rewards"] == 1.0
    with warnings.catch_warnings(action="error"):
        grade(task, rewards, reported=reported)


def test_a_function_of_lists_is_called_once(task):
    calls = []

    def lengths(problems, completions):
        calls.append((problems, completions))
        return np.array([len(text) for text in completions])

    _, rewards, logs = grade(task, {"x": (lengths, 0.5)})
    assert calls == [([PROBLEM] * 3, TEXTS)] and logs["reward_x"] == 44 / 3
    np.testing.assert_allclose(rewards, [11.0, 10.1, 2.0], rtol=1e-6)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: [1.0, 2.0], r"returned \[1.0, 2.0\], which is no list of 3 numbers"),
        (lambda: 1.0, "returned 1.0, which is no list of 3 numbers"),
        (lambda: "abc", "returned 'a', which is no finite number"),
        (lambda: iter(range(3)), "returned <range_iterator"),
        (lambda: 1 / 0, "raised ZeroDivisionError"),
        (lambda: time.sleep(60), "took longer than 0.3 s"),  # of three completions
    ],
)
def test_a_call_of_lists_that_fails_costs_all_of_them_and_one_warning(task, call, words):
    rewards = {"x": (lambda problems, completions: call(), 2), "brevity": (brevity, 0.25)}
    with pytest.warns(UserWarning, match=f"The reward 'x' {words}") as caught:
        scores, rewards, logs = grade(task, rewards, seconds=0.1)
    assert len(caught) == 1 and np.isnan(rewards).all() and scores[0].correct
    assert math.isnan(logs["reward_x"]) and logs["reward_brevity"] == pytest.approx(-4.4 / 3)


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_what_is_no_number_in_a_list_costs_its_completion_only(task, value):
    with pytest.warns(UserWarning, match="The reward 'x' returned .*, which is no finite number.*completion='well'"):
        _, rewards, _ = grade(task, {"x": (lambda problems, completions: [1, jnp.float32(2), value], 1)})
    np.testing.assert_allclose(rewards, [2.0, 2.1, np.nan])


class Slow(Judge):
    """Takes longer than a reward may, and cannot judge what does not end as an answer does."""

    def judge(self, texts):
        time.sleep(0.2)
        return [0.5 if text.endswith(">") else ConnectionError(f"no number for {text}") for text in texts]


def test_a_judge_has_no_limit_of_the_grader_and_may_fail_on_some(task):
    rewards, reported = {"judge": (Slow(task, "{completion}"), 2)}, {}
    with pytest.warns(UserWarning, match="'judge' raised ConnectionError.'no number for well'.. Received: ") as caught:
        _, rewards, logs = grade(task, rewards, seconds=0.01, reported=reported)
    np.testing.assert_allclose(rewards, [2.0, 1.1, np.nan])
    assert len(caught) == 1 and logs["failed_rewards"] == pytest.approx(1 / 3) and logs["reward_judge"] == 0.5
    with warnings.catch_warnings(action="error"):  # it is told once an epoch
        Grader(task, {"judge": (Slow(task, "{completion}"), 2)}).grade([PROBLEM] * 2, ["a", "b"], LENGTHS[:2], reported)
    with pytest.raises(TaskError, match='on_reward_error is "stop": The reward .judge. raised ConnectionError'):
        grade(task, {"judge": (Slow(task, "{completion}"), 2)}, on_error="stop")


def test_an_interrupt_is_no_failure(task):
    def interrupt(problem, completion):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grade(task, {"x": (interrupt, 1)})


def test_a_program_that_ends_itself_is_a_failure_and_is_cut_in_the_report(task):
    """As `exec` of a completion can."""
    text = "a\n" * 500
    with pytest.warns(UserWarning, match=r"The reward 'x' raised SystemExit\(3\)") as caught:
        _, rewards = Grader(task, {"x": (lambda *_: sys.exit(3), 1)}).grade([PROBLEM], [text], np.array([3]), {})
    assert np.isnan(rewards["reward"]).all()
    assert str(caught[0].message).endswith(f"completion={repr(text)[:200]}…")


@pytest.mark.parametrize("entry", [brevity, (brevity,), (brevity, "1"), (brevity, math.nan)])
def test_what_is_no_pair_is_an_error(task, entry):
    with pytest.raises(ValueError, match=r"a pair \(function, weight\).*Received: rewards\['x'\]="):
        Grader(task, {"x": entry})


def test_bad_settings(task):
    for settings, sentence in [
        (dict(seconds=math.nan), "Received: reward_seconds=nan"),
        (dict(on_error="ignore"), "`on_reward_error` must be one of skip, stop. Received: on_reward_error='ignore'"),
        (dict(task_weight=-1), "`task_weight` must be a finite number, 0 or more. Received: task_weight=-1"),
        (dict(rewards={"task": (brevity, 0.5)}), r"`task_weight` is its weight. Received: rewards\['task'\]="),
    ]:
        with pytest.raises(ValueError, match=sentence):
            Grader(task, **settings)


def test_the_first_failure_stops_where_that_is_asked_for(task):
    with pytest.raises(RuntimeError, match="is \"stop\": The reward 'x' raised ZeroDivisionError") as caught:
        grade(task, {"x": (fails_on_well, 1)}, on_error="stop")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)  # with the line of the user's function
    with pytest.raises(RuntimeError, match='on_reward_error is "stop": Fragile.score raised ZeroDivisionError'):
        grade(Fragile(lambda: 1 / 0), on_error="stop")


def test_nothing_but_failures_stops_always(task):
    grader, reported = Grader(task, {"x": (lambda *_: None, 1)}), {}
    with pytest.warns(UserWarning):
        _, rewards = grader.grade([PROBLEM] * 3, TEXTS, LENGTHS, reported)
    sentence = "every completion failed, so there is nothing to learn from: The reward 'x' returned None.*'<answer>3"
    with pytest.raises(RuntimeError, match=sentence):
        grader.check_any(rewards["reward"], reported)
    grader.check_any(np.array([np.nan, 0.0]), reported)


@pytest.mark.parametrize(
    "failure, words",
    [
        (lambda: 1 / 0, "raised ZeroDivisionError"),
        (lambda: time.sleep(60), "took longer than 0.1 s"),
        (lambda: 1.0, r"returned 1.0, which is no Score\(reward, correct, verdict\) of keras_aha.tasks whose"),
        (lambda: None, "returned None, which is no Score"),
        (lambda: math.nan, "returned nan, which is no Score"),
        (lambda: (1.0, True, "correct"), r"returned \(1.0, True, 'correct'\), which is no Score"),
        (lambda: Score(np.ones(2), True, "correct"), r"returned Score\(reward=array"),
        (lambda: Score(math.nan, True, "correct"), r"returned Score\(reward=nan"),
        (lambda: Score(1.0, np.ones(2), "correct"), "raised ValueError"),
        (lambda: raises(asyncio.CancelledError("no Exception")), "raised CancelledError"),
        (lambda: raises(Unspeakable()), "raised <.*Unspeakable object at"),
        (lambda: sys.exit(1), "raised SystemExit"),
    ],
)
def test_a_tasks_score_that_fails_costs_that_completion_only(failure, words):
    with pytest.warns(UserWarning, match=f"Fragile.score {words}.* Received: problem=Countdown.*, completion='well'"):
        scores, rewards, logs = grade(Fragile(failure), {"brevity": (brevity, 0.25)}, seconds=0.1)
    np.testing.assert_allclose(rewards, [0.5, -0.4, np.nan], atol=1e-7)
    assert [score.verdict for score in scores] == ["correct", "wrong_value", "error"]
    assert not scores[2].correct and not scores[2].well_formed
    expected = {"accuracy": 1 / 3, "format_rate": 2 / 3, "task_reward": 1.1 / 2, "failed_rewards": 1 / 3}
    assert {name: logs[name] for name in expected} == pytest.approx(expected)


def test_groups_with_signal_have_two_rewards_that_differ():
    nan = np.nan
    without = [[0.1, 0.1, 0.1], [0.1, 0.1, nan], [0.1, nan, nan], [nan, nan, nan]]
    rewards = np.array([[0.1, 0.1, 0.0], [0.1, nan, 0.0], *without], "float32")
    assert groups_with_signal(rewards.ravel(), 3).tolist() == [True, True, False, False, False, False]


@pytest.mark.parametrize("number", [np.float32(0.5), jnp.float32(0.5)], ids=type)
def test_a_score_becomes_plain_numbers_and_a_text(number):
    """Which JSON and TensorBoard can hold."""
    scores, rewards, _ = grade(Fragile(lambda: Score(number, np.True_, None)))
    assert scores[2] == Score(0.5, True, "None") and rewards[2] == 0.5
    assert type(scores[2].reward) is float and scores[2].correct is True


def test_a_score_that_is_none_is_found_before_training():
    class Own(Fragile):
        def score(self, problem, completion):
            return self.failure()

    with pytest.raises(TaskError, match=r"`Own.score` must return a Score\(.* Received: 0.5, for CountdownProblem"):
        Grader(Own(lambda: 0.5).held_out(2)).try_score(PROBLEM)
    mixture = Mixture([Countdown(num_numbers=2), Own(lambda: 0.5)])
    with pytest.raises(TaskError, match=r"`Own.score` must return .* for MixedProblem\(task=1, problem=CountdownP"):
        Grader(mixture.held_out(2)).try_score(mixture.problem(1))
    for may_be_for_this_text_only in (lambda: 1 / 0, sys.exit, lambda: Score(0.0, False, "no_answer")):
        Grader(Own(may_be_for_this_text_only)).try_score(PROBLEM)


def test_a_thousand_epochs_of_grading_leave_nothing_behind(capsys):
    """Of rewards that fail in all ways, print, and are interrupted, with another text each time."""
    epoch = 0
    failures = [lambda: 1 / 0, lambda: print("heard"), lambda: 0.5, lambda: Score(math.nan, False, str(epoch))]
    grader = Grader(Fragile(lambda: failures[epoch % 4]()), {"x": (fails_on_well, 1)}, seconds=5)

    def grade_epochs(count):
        nonlocal epoch
        for _ in range(count):
            grader.grade([CountdownProblem((3, epoch), 7)] * 3, TEXTS, LENGTHS, {})
            epoch += 1
        gc.collect()
        return threading.active_count(), len(gc.get_objects()), tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    with warnings.catch_warnings(action="default"):
        warnings.showwarning = lambda *args, **settings: None
        before, after = grade_epochs(100), grade_epochs(1000)
    tracemalloc.stop()
    assert after[0] == before[0] and after[1] - before[1] < 100 and after[2] - before[2] < 50_000
    assert capsys.readouterr().out.count("heard") == 275
