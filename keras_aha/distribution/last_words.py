"""What one process of several says and does at its end: JAX aborts it from C++ if another one is lost."""

import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

_GRACE = 10  # seconds in which the others may end too


def leave_last_words(sentence: str) -> Callable[[], None]:
    """Has a sentence written to stderr when this process ends, be it aborted or killed.

    Call this before JAX is loaded. What it returns takes the sentence back, for an end that is explained otherwise.
    """
    end, mine = os.pipe()
    if os.fork() == 0:  # a witness, which waits until the pipe has no writer any more, or a word
        os.close(mine)
        os.setpgrp()  # or a terminal's Ctrl-C would end it
        if not os.read(end, 1):
            os.write(2, f"{sentence}\n".encode())
        os._exit(0)
    os.close(end)
    return lambda: os.write(mine, b".")


def end_alone(code: int) -> NoReturn:
    """Ends a process of several by an error: with the others if they end too, else alone after ten seconds.

    JAX would wait five minutes for them, and they for this one. Once it is gone, they hear of it by its heartbeat.
    """
    import jax

    shutdown = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    shutdown.start()
    shutdown.join(_GRACE)
    sys.stdout.flush()
    os._exit(code)
