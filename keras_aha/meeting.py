"""Processes wait for each other at an address, and say who is missing.

JAX waits for them too, but ends the process, with a trace of C++, where one does not come.
"""

import os
import re
import socket
import time

SECONDS = 300  # that a process waits, as long as JAX would
_ADDRESS = re.compile(r"([^\s,:/\[\]]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})")
_GREETING = b"keras-aha: process %d of %d\n"
_GO, _STAY = b"go\n", b"no\n"


def meet(address: str, count: int, index: int) -> None:
    """Returns when all processes have called it; then the port is free again.

    Args:
        address: HOST:PORT of process 0, by which all reach it, process 0 too.
        count: of processes.
        index: of this one.

    Raises:
        ValueError: no such address, a port that cannot be listened at, process 0 cannot be reached, some do not come
            within `SECONDS`, or they have other counts or the same index.
    """
    received = f"Received: coordinator={address!r}, num_processes={count}, process_id={index}"
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match[2]) < 2**16:
        raise ValueError(f"The coordinator's address is HOST:PORT, its port from 1 to 65535. {received}")
    host, port = match[1].strip("[]"), int(match[2])
    if index:
        _come(host, port, count, index, received)
    else:
        _wait(host, port, count, received)


# === Process 0 ===


def _wait(host, port, count, received):
    try:
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        listener = socket.create_server(("", port), family=family, backlog=128, dualstack_ipv6=dual)
    except OSError as error:
        raise ValueError(f"Process 0 cannot listen at port {port}: {os.strerror(error.errno)}. {received}") from error
    guests, end = {}, time.monotonic() + SECONDS
    with listener:
        try:
            _check_own(host, port, received)
            while len(guests) < count - 1:
                _receive(listener, guests, count, end, received)
                guests = {index: guest for index, guest in guests.items() if not _has_left(guest)}
            answer = _GO
        except BaseException:
            answer = _STAY
            raise
        finally:
            for guest in guests.values():
                _tell(guest, answer)


def _check_own(host, port, received):
    """JAX has process 0 call itself by the address that the others call it by."""
    try:
        socket.create_connection((host, port), timeout=min(10, SECONDS)).close()
    except OSError as error:
        raise ValueError(
            f"Process 0 does not reach itself at this address: take one of this machine's own. {received}, {error}"
        ) from error


def _receive(listener, guests, count, end, received):
    """Takes in who calls next; whoever does not greet as one of our processes is left alone."""
    listener.settimeout(max(end - time.monotonic(), 0.01))
    try:
        guest, _ = listener.accept()
    except TimeoutError as error:
        missing = [str(index) for index in range(1, min(count, 1000)) if index not in guests]
        names = ", ".join(missing[:8]) + (", …" if len(missing) > 8 else "")
        raise ValueError(
            f"These processes have not come within {SECONDS} s: {names}. Start the same command for each, with its "
            f"--process-id. {received}"
        ) from error
    greeting = re.fullmatch(_GREETING.replace(b"%d", rb"(\d{1,10})"), _line(guest, seconds=2))
    if greeting is None:
        guest.close()
        return
    index, other = map(int, greeting.groups())
    if other != count or not 0 < index < count or index in guests:
        _tell(guest, _STAY)
        what = f"a second process {index} has come" if other == count else f"process {index} counts {other} processes"
        raise ValueError(f"The processes do not belong together: {what}. {received}")
    guests[index] = guest


def _has_left(guest) -> bool:
    """A guest is silent after its greeting, until it goes."""
    guest.setblocking(False)
    try:
        return guest.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _tell(guest, answer):
    guest.settimeout(2)
    with guest:
        try:
            guest.sendall(answer)
        except OSError:
            pass  # it has gone


# === The others ===


def _come(host, port, count, index, received):
    end = time.monotonic() + SECONDS
    while True:
        try:
            with socket.create_connection(
                (host, port), timeout=max(min(10, end - time.monotonic()), 0.01)
            ) as process_0:
                process_0.sendall(_GREETING % (index, count))
                answer = _line(process_0, seconds=SECONDS + 5)  # process 0 may have come last, and waits so long
            reason = "what answers there is no process 0 of keras-aha that waits"
        except OSError as error:
            answer, reason = b"", str(error)
        if answer == _GO:
            return
        if answer == _STAY:
            raise ValueError(f"Process 0 has stopped waiting, and says why. {received}")
        if time.monotonic() >= end:
            raise ValueError(f"Process 0 was not reached within {SECONDS} s. {received}, {reason}")
        time.sleep(min(0.3, SECONDS / 10))


def _line(connection, seconds) -> bytes:
    """What the other end says, up to a line break; what it has said in a time, or until it went, else."""
    said, end = b"", time.monotonic() + seconds
    try:
        while not said.endswith(b"\n") and len(said) < 100:
            connection.settimeout(max(end - time.monotonic(), 0.01))
            part = connection.recv(100)
            if not part:
                break
            said += part
    except OSError:
        pass
    return said
