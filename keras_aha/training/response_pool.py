"""`ResponsePool`: calls in threads, so that what waits for a server does so while rows are decoded."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from keras_aha.training.time_limit import TimeLimitError


class Response:
    """A call that was asked for, and what became of it: when it is over, it has a value, or what it raised."""

    def __init__(self, key: Any, function: Callable, *args):
        self.key, self.call = key, (function, args)
        self.started = self.seconds = self.thread = self.value = self.error = None

    def make(self) -> None:
        """Calls it."""
        function, args = self.call
        self.thread, self.started = threading.current_thread(), time.monotonic()
        try:
            self.value = function(*args)
        except BaseException as error:  # whatever a user's function may raise
            self.error = error
        self.seconds = time.monotonic() - self.started


class ResponsePool:
    """So many daemon threads at most, which make calls in the order in which they were asked for.

    A thread cannot be interrupted. If a call takes too long, nobody waits for it any more, another thread takes the
    place of its own, and that ends with the call.

    Args:
        workers: threads, 1 or more.
        seconds: that a call may take from when it begins; `None` is no limit.
    """

    def __init__(self, workers: int, seconds: float | None):
        self.workers, self.seconds = workers, seconds
        self._waiting, self._open, self._threads = deque(), [], []

    def submit(self, response: Response) -> None:
        """Asks for a response."""
        self._open.append(response)
        self._waiting.append(response)
        self._start_thread()

    def take(self, wait: bool) -> list[Response]:
        """Those that are over, each once; `wait` until one is, if any is to come."""
        while True:
            over = [response for response in self._open if self._is_over(response)]
            self._open = [response for response in self._open if response not in over]
            self._start_thread()  # in place of one that is given up, or that saw nothing to do a moment ago
            if over or not wait or not self._open:
                return over
            time.sleep(0.002)

    def close(self) -> None:
        """Begins no more calls; the threads end with those that they make."""
        self._waiting.clear()

    def _is_over(self, response):
        took = response.seconds
        if took is None and response.started is not None:
            took = time.monotonic() - response.started
        if took is not None and self.seconds is not None and took > self.seconds:
            response.error = TimeLimitError(f"The call took too long. Received: seconds={self.seconds}")
            self._threads = [thread for thread in self._threads if thread is not response.thread]
            return True
        return response.seconds is not None

    def _start_thread(self):
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        for _ in range(min(self.workers - len(self._threads), len(self._waiting))):
            self._threads.append(threading.Thread(target=self._work, daemon=True))
            self._threads[-1].start()

    def _work(self):
        while threading.current_thread() in self._threads:  # until another has its place
            try:
                response = self._waiting.popleft()
            except IndexError:
                return
            response.make()
