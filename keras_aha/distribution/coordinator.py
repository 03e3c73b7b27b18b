"""The address at which several processes meet, tried before JAX does: JAX ends a process with a trace of C++."""

import re
import socket
import time

SECONDS = 300  # that a process waits for process 0, as long as JAX would
_ADDRESS = re.compile(r"([^\s,:/\[\]]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})")


def try_coordinator(address: str, index: int) -> None:
    """Waits until process 0, the coordinator, answers at HOST:PORT; in process 0, tries to listen there.

    Raises:
        ValueError: no such address, a port that cannot be listened at, or nobody who answers within `SECONDS`.
    """
    received = f"Received: coordinator={address!r}, process_id={index}"
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match[2]) < 2**16:
        raise ValueError(f"The coordinator's address is HOST:PORT, its port from 1 to 65535. {received}")
    host, port = match[1].strip("[]"), int(match[2])
    if index:
        _wait(host, port, received)
        return
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise ValueError(f"Process 0 cannot listen at port {port}: {error.strerror}. {received}") from error


def _wait(host: str, port: int, received: str) -> None:
    end = time.monotonic() + SECONDS
    while True:
        try:
            socket.create_connection((host, port), timeout=10).close()
            return
        except OSError as error:
            if time.monotonic() >= end:
                raise ValueError(f"Process 0 was not reached within {SECONDS} s. {received}, {error}") from error
        time.sleep(0.3)
