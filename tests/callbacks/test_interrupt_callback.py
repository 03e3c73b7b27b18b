"""Signals in the main thread; in another one, and for handlers that are not Python's, none."""

import os
import signal
import threading

from keras_aha.callbacks.interrupt_callback import InterruptCallback

import pytest


@pytest.fixture(autouse=True)
def handlers():
    """Those of a process that a terminal started: a shell's background jobs ignore Ctrl-C."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_signals_are_taken_and_given_back():
    callback = InterruptCallback()
    callback.on_train_begin()
    with pytest.raises(KeyboardInterrupt):  # in a rollout nothing is lost
        os.kill(os.getpid(), signal.SIGTERM)
    assert callback.signal == signal.SIGTERM and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    callback.on_train_begin()
    callback.on_train_batch_begin(0)
    os.kill(os.getpid(), signal.SIGINT)  # goes on to the epoch's end
    callback.on_train_end()
    assert callback.signal == signal.SIGINT and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_is_ignored_or_another_languages_stays(monkeypatch):
    """SIGHUP under nohup, Ctrl-C of a background job; and handlers that a program around Python has set."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    monkeypatch.setattr(signal, "getsignal", {signal.SIGINT: signal.SIG_IGN, signal.SIGTERM: None}.get)
    callback = InterruptCallback()
    callback.on_train_begin()
    callback.on_train_end()
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGINT) is signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_in_a_thread_signals_are_left_alone():
    def train():
        callback = InterruptCallback()
        with pytest.warns(UserWarning, match="runs in a thread.*reward_seconds"):
            callback.on_train_begin()
        callback.on_train_end()
        done.append(signal.getsignal(signal.SIGTERM))

    done = []
    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert done == [signal.SIG_DFL]
