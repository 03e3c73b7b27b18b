"""`ResponsePool`: calls in threads, so that what waits for a server does so while rows are decoded."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from keras_aha.training.ask import TaskError
from keras_aha.training.time_limit import TimeLimitError

_POLL = 0.005  # seconds between two looks at the clock
_MOST_HANGING = 1000  # threads that never came back, of all pools
_hanging = []


class Outcome(NamedTuple):
    """What became of a call: what it returned, or what it raised."""

    key: Any
    value: Any = None
    error: BaseException | None = None


class _Job:
    def __init__(self, key, call, args):
        self.key, self.call, self.args = key, call, args
        self.started = self.thread = None
        self.given_up = False


class ResponsePool:
    """So many daemon threads, which make calls in the order in which they were asked for.

    A thread cannot be interrupted. A call that takes too long is given up, and another thread takes the place of its
    own, which ends when the call does.

    Args:
        workers: threads, 1 or more.
        seconds: that a call may take from when it is begun; `None` is no limit.
    """

    def __init__(self, workers: int, seconds: float | None):
        self.workers, self.seconds = workers, seconds
        self._waiting, self._done, self._jobs = queue.SimpleQueue(), queue.SimpleQueue(), []
        for _ in range(workers):
            self._start_thread()

    def submit(self, key, call: Callable, *args) -> None:
        """Asks for a call."""
        self._jobs.append(_Job(key, call, args))
        self._waiting.put(self._jobs[-1])

    def take(self, wait: bool) -> list[Outcome]:
        """The outcomes that are there, each once; `wait` until there is one, if any is to come."""
        outcomes = []
        while True:
            while not self._done.empty():
                job, outcome, seconds = self._done.get()
                if not job.given_up:
                    self._jobs.remove(job)
                    outcomes.append(self._too_slow(job) if self._is_late(seconds) else outcome)
            now = time.monotonic()
            for job in [job for job in self._jobs if job.started is not None and self._is_late(now - job.started)]:
                self._jobs.remove(job)
                self._give_up(job)
                outcomes.append(self._too_slow(job))
            if outcomes or not wait or not self._jobs:
                return outcomes
            time.sleep(_POLL)

    def close(self) -> None:
        """Ends the threads, those of calls that are not given up when these are done."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()
        for _ in range(self.workers):
            self._waiting.put(None)

    def _is_late(self, seconds):
        return self.seconds is not None and seconds > self.seconds

    def _too_slow(self, job):
        return Outcome(job.key, error=TimeLimitError(f"The call took too long. Received: seconds={self.seconds}"))

    def _give_up(self, job):
        job.given_up = True
        _hanging[:] = [thread for thread in (*_hanging, job.thread) if thread.is_alive()]
        if len(_hanging) > _MOST_HANGING:
            raise TaskError(
                f"More than {_MOST_HANGING} responses hang: let what the environment calls give up by itself, sooner "
                f"than response_seconds. Received: response_seconds={self.seconds}"
            )
        self._start_thread()

    def _start_thread(self):
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self):
        while (job := self._waiting.get()) is not None:
            job.thread, job.started = threading.current_thread(), time.monotonic()
            try:
                outcome = Outcome(job.key, job.call(*job.args))
            except BaseException as error:  # whatever a user's environment may raise
                outcome = Outcome(job.key, error=error)
            self._done.put((job, outcome, time.monotonic() - job.started))
            if job.given_up:  # another has its place
                return
