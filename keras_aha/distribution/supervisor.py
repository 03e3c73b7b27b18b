"""One process of several, in a child of its own: if another one is lost, JAX ends it from C++, without a sentence."""

import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Callable

HEARTBEAT = 30  # seconds without a word, after which a process is lost
_LOST = re.compile("oordination|Gloo|UNAVAILABLE")
_GRACE = 10  # seconds to end in


def continue_in_child(say_lost: Callable[[], None]) -> None:
    """Returns in a child. This process waits for it, hands it signals, and ends as it does, after `say_lost()` if JAX
    ended it because another process is lost. A second signal ends it though it may wait for the others.

    Nothing happens if JAX is loaded already: its threads would be missing in a child.
    """
    if "jax" in sys.modules:
        return
    sys.stdout.flush()
    log = tempfile.TemporaryFile()  # noqa: SIM115  of what C++ writes; Python writes to a copy of the descriptor
    mine, parents = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(parents)
        os.setpgrp()  # or a terminal's Ctrl-C would come twice
        if sys.stderr.fileno() != 2:
            os.dup2(log.fileno(), 2)
        # It ends with its parent, however that is ended.
        threading.Thread(target=lambda: os.read(mine, 1) or os._exit(1), daemon=True).start()
        return
    signals = []

    def hand_on(number, frame):
        signals.append(number)
        os.kill(child, signal.SIGKILL if number == signal.SIGALRM else number)
        if len(signals) == 2:
            signal.alarm(3 * _GRACE)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, hand_on)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    log.seek(0)
    words = log.read()
    if code == -signal.SIGABRT and _LOST.search(words.decode(errors="replace")):
        say_lost()
        code = 1
    elif code < 0:
        os.write(2, words[-4000:] + f"\nThe process was ended by {signal.Signals(-code).name}.\n".encode())
    os._exit(code if code >= 0 else 128 - code)


def is_lost(error: BaseException) -> bool:
    """Whether it says that another one of several processes is lost."""
    import jax

    return jax.process_count() > 1 and bool(_LOST.search(str(error)))


def leave(error: BaseException) -> None:
    """Ends a process of several by an error: with the others if they end too, else alone, and they are told by JAX."""
    import jax

    code = 1
    if isinstance(error, SystemExit):
        code = error.code
    elif is_lost(error):
        os.write(2, str(error).encode())
        os.abort()  # as JAX does, so that it is said once
    else:
        sys.excepthook(type(error), error, error.__traceback__)
    shutdown = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    shutdown.start()
    shutdown.join(_GRACE)
    sys.stdout.flush()
    os._exit(code)
