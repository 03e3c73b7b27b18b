"""By a clock that the tests set."""

from types import SimpleNamespace

from keras_aha.callbacks import time_limit_callback
from keras_aha.callbacks.time_limit_callback import TimeLimitCallback

import pytest


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(time_limit_callback, "time", SimpleNamespace(time=lambda: clock.now))
    return clock


def make(seconds, epochs=100, evaluation_seconds=0.0):
    callback = TimeLimitCallback(seconds / 3600)
    callback.evaluation_seconds = evaluation_seconds
    callback.set_model(SimpleNamespace(stop_training=False))
    callback.set_params({"epochs": epochs})
    callback.on_train_begin()
    return callback


def train(callback, clock, *epochs):
    """How many epochs are trained: each so many seconds, `(epoch, evaluation)` where it ends with an evaluation."""
    for i, seconds in enumerate(epochs):
        epoch, evaluation = seconds if isinstance(seconds, tuple) else (seconds, None)
        clock.now += epoch + (evaluation or 0)
        callback.on_epoch_end(i, {} if evaluation is None else {"evaluation_seconds": evaluation})
        assert callback.reached == callback.model.stop_training
        if callback.reached:
            return i + 1
    return len(epochs)


@pytest.mark.parametrize(
    "epochs, trained",
    [
        ([10] * 20, 9),  # after 80 s another 12 end at 92, after 90 they would end at 102
        ([10, 25, *[10] * 9], 6),  # the longest one counts: at 65 another 30 end at 95, at 75 they would end at 105
        ([40, *[10] * 9], 6),  # the first compiles, and does not: at 80 another 12 do, at 90 they do not
        ([60, 10], 1),  # unless there is no other: 60 + 72
    ],
)
def test_it_stops_where_another_epoch_would_not_end_in_time(epochs, trained, clock):
    assert train(make(100), clock, *epochs) == trained


def test_an_evaluation_is_counted_before_there_is_one(clock):
    """As one before tells: 3 s epochs, 11 s evaluations, 1.2 × 14 = 16.8 s for each next epoch."""
    assert train(make(60), clock, *[3] * 20) == 19
    clock.now = 1000.0
    assert train(make(60, evaluation_seconds=11.0), clock, *[3] * 20) == 15
    before = make(100)
    train(before, clock, (3, 11))
    clock.now = 1000.0
    resumed = make(60)
    resumed.set_state(before.get_state())
    assert train(resumed, clock, *[3] * 20) == 15
    # Not the one before training, which compiled: 1.2 × (3 + 5) = 9.6 s, where it was 1.2 × (3 + 40) = 51.6 s.
    callback = make(100, evaluation_seconds=40.0)
    assert train(callback, clock, *[3] * 8, (3, 4), (3, 5), *[3] * 30) == 28  # 39 + 18 × 3 = 93
    assert callback.evaluation_seconds == 5


def test_a_checkpoint_is_counted_and_the_last_epoch_is_no_stop(clock):
    for epochs in (100, 1):
        callback = make(100, epochs)
        clock.now += 40
        callback.on_epoch_end(0, {"checkpoint_seconds": 20.0})  # 40 + 1.2 × 60
        assert callback.reached == callback.model.stop_training == (epochs > 1)


def test_time_that_is_over_before_training(clock):
    callback = make(10)
    assert not callback.is_over()
    clock.now += 11
    assert callback.is_over() and callback.reached
    with pytest.raises(ValueError, match="`hours` must be above 0. Received: hours=nan"):
        TimeLimitCallback(float("nan"))
