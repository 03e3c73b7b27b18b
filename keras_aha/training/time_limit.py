"""`within`: a call that ends with an error where it takes too long."""

import os
import signal
import threading
import time
from collections.abc import Callable


class TimeLimitError(TimeoutError):
    """A call has taken longer than it may."""


class _TimeIsUp(BaseException):
    """What interrupts the call. No Exception, as functions of users catch those and go on."""


def within(seconds: float | None, function: Callable, *args):
    """Calls `function(*args)` and interrupts it after some seconds.

    The clock is the process's real-time timer, whose signal Python sees between two of its instructions: a loop in
    Python, `time.sleep` and waiting for a file or a socket are interrupted, a long call of C code, such as a regular
    expression that backtracks for ever, only when it returns. A function that catches even BaseException is interrupted
    again each time that the limit passes. One that sets an alarm of its own takes this one's place.

    There is no limit where such a signal cannot be had: outside of the main thread, off POSIX, or where a handler of
    SIGALRM stands that Python did not set. A former handler and timer are back afterwards; the timer rings a little
    late where its time came meanwhile.

    Args:
        seconds: above 0; `None` for no limit.
        function, *args: what is called.

    Raises:
        TimeLimitError: if it was interrupted, whatever it made of that.
    """
    if seconds is None or not _can_interrupt():
        return function(*args)
    running, is_up, result = False, False, None

    def interrupt(signum, frame):
        nonlocal is_up
        if running:  # not while handler and timer are put back
            is_up = True
            raise _TimeIsUp

    start = time.monotonic()
    handler = signal.signal(signal.SIGALRM, interrupt)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        running = True
        result = function(*args)
    except _TimeIsUp:
        pass
    except Exception:
        if not is_up:
            raise
    finally:
        running = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - start), 1e-3), interval)
    if is_up:
        raise TimeLimitError(f"The call took too long. Received: seconds={seconds}")
    return result


def _can_interrupt() -> bool:
    if os.name != "posix" or threading.current_thread() is not threading.main_thread():
        return False
    return signal.getsignal(signal.SIGALRM) is not None
