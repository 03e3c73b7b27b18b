"""Calls that really hang."""

import os
import signal
import socket
import threading
import time

from keras_aha.training.time_limit import TimeLimitError, within

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there is no such signal")


@pytest.fixture(autouse=True)
def clean():
    """No test may leave a handler or a timer behind; Ctrl-C is not ignored, as it is in a shell's background jobs."""
    before = signal.getsignal(signal.SIGALRM)
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, interrupt)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def loop():
    while True:
        pass


def loop_that_catches_exceptions():
    while True:
        try:
            time.sleep(60)
        except Exception:
            pass


def cleans_up_with_an_error():
    ends = socket.socketpair()
    try:
        ends[0].recv(1)
    finally:
        raise KeyError("while it is interrupted")


@pytest.mark.parametrize("function", [loop, loop_that_catches_exceptions, cleans_up_with_an_error])
def test_what_hangs_is_interrupted(function):
    start = time.monotonic()
    with pytest.raises(TimeLimitError, match="The call took too long. Received: seconds=0.1"):
        within(0.1, function)
    assert 0.1 <= time.monotonic() - start < 2


def test_what_catches_all_is_interrupted_again():
    interrupted = []

    def stubborn():
        for _ in range(3):
            try:
                time.sleep(60)
            except:  # noqa: E722  as people write
                interrupted.append(True)
        return 1.0

    with pytest.raises(TimeLimitError):  # a result that comes too late is none
        within(0.1, stubborn)
    assert len(interrupted) == 3


@pytest.mark.parametrize("seconds", [60, None])
def test_what_is_quick_returns_or_raises_as_ever(seconds):
    assert within(seconds, divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        within(seconds, divmod, 7, 0)
    with pytest.raises(KeyboardInterrupt):
        within(seconds, signal.raise_signal, signal.SIGINT)


def test_there_is_no_limit_in_other_threads():
    found = []
    thread = threading.Thread(target=lambda: found.append(within(0.05, lambda: time.sleep(0.2) or "slow")))
    thread.start()
    thread.join()
    assert found == ["slow"]


@pytest.fixture
def alarms():
    """A list that grows by an element for each alarm of whoever set one before."""
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(time.monotonic()))
    yield rung
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_former_timer_goes_on(alarms):
    start = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 0.3, 7.0)
    within(60, time.sleep, 0.1)
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    assert alarms == [] and 0 < left < 0.25 and interval == 7.0
    with pytest.raises(TimeLimitError):
        within(0.4, loop)  # its time comes meanwhile, and it rings afterwards
    time.sleep(0.05)
    assert len(alarms) == 1 and alarms[0] - start > 0.4


def test_a_function_with_an_alarm_of_its_own_is_let_be():
    def with_own_alarm():
        before = signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("mine")))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            time.sleep(60)
        finally:
            signal.signal(signal.SIGALRM, before)

    with pytest.raises(TimeoutError, match="mine"):
        within(60, with_own_alarm)
