"""`within`: a call with a time limit."""

import os
import signal
import threading
import time
from collections.abc import Callable


class TimeLimitError(TimeoutError):
    """A call has taken longer than it may."""


class _TimeIsUp(BaseException):
    """Interrupts the call. It is no `Exception`, because functions of users catch those and go on."""


def within(seconds: float | None, function: Callable, *args):
    """Calls `function(*args)` and interrupts it after some seconds, above 0; `None` is no limit.

    The clock is the process's real-time timer. Python looks for its signal between two of its instructions: a loop in
    Python, `time.sleep` and waiting for a file or a socket are interrupted, a long call of C code, such as a regular
    expression that backtracks for ever, only when it returns. A function that catches even BaseException is interrupted
    again each time that the limit passes. One that sets an alarm of its own takes this one's place.

    There is no limit where such a signal cannot be had: outside of the main thread, off POSIX, or if a handler of
    SIGALRM stands that Python did not set. A former handler and timer are back afterwards; the timer rings a little
    late if its time came meanwhile.

    It raises TimeLimitError if the call was interrupted, whatever it made of that.
    """
    if seconds is None or not _can_interrupt():
        return function(*args)
    is_running = is_up = False
    result = None

    def interrupt(signum, frame):
        nonlocal is_up
        if is_running:  # it may ring again while the former timer is put back
            is_up = True
            raise _TimeIsUp

    former = _start_timer(seconds, interrupt)
    try:  # `is_running` is set in here, so that no interruption leaves the timer on
        is_running = True
        result = function(*args)
    except _TimeIsUp:
        pass
    except BaseException as error:
        if not is_up or isinstance(error, KeyboardInterrupt):  # else the function made it of the interruption
            raise
    finally:
        is_running = False
        _put_back(*former)
    if is_up:
        raise TimeLimitError(f"The call took too long. Received: seconds={seconds}")
    return result


def _can_interrupt() -> bool:
    if os.name != "posix" or threading.current_thread() is not threading.main_thread():
        return False
    return signal.getsignal(signal.SIGALRM) is not None


def _start_timer(seconds, handler):
    """Starts the timer, again and again, and returns what `_put_back` needs."""
    now, former = time.monotonic(), signal.signal(signal.SIGALRM, handler)
    return now, former, *signal.setitimer(signal.ITIMER_REAL, seconds, seconds)


def _put_back(start, handler, left, interval):
    """Sets the handler and timer of before; `left` are the seconds that the timer had at `start`."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, handler)
    if left:
        signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - start), 1e-3), interval)
