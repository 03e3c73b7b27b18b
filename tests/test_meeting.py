"""Real sockets of this machine; the processes are threads, as waiting is all that they do."""

import concurrent.futures
import socket
import time

from keras_aha import meeting

import pytest


@pytest.fixture
def port():
    """One that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def together(*calls):
    """What comes of each `(delay, address, count, index)`, all begun at once: `None`, or what is raised."""

    def call(delay, *arguments):
        time.sleep(delay)
        meeting.meet(*arguments)

    with concurrent.futures.ThreadPoolExecutor(len(calls)) as threads:
        futures = [threads.submit(call, *arguments) for arguments in calls]
        return [future.exception() for future in futures]


def say(port, message) -> bytes:
    """What process 0 answers, once it is there; nothing where the other end goes at once."""
    end = time.monotonic() + 10
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port)) as process_0:
                process_0.sendall(message)
                return process_0.recv(10) if message.startswith(b"GET") else b""
        except ConnectionRefusedError:
            assert time.monotonic() < end
            time.sleep(0.05)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_all_go_when_the_last_has_come(host, port):
    """Whoever that is; and the port is free for JAX then."""
    address, start = f"{host}:{port}", time.monotonic()
    assert together((0.4, address, 3, 0), (0, address, 3, 1), (0, address, 3, 2)) == [None] * 3
    assert together((0, address, 3, 0), (0, address, 3, 1), (0.4, address, 3, 2)) == [None] * 3
    assert time.monotonic() - start > 0.8
    meeting.meet(address, 1, 0)
    socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize(
    "address", ["abc", "abc:", ":80", "a:b", "a:0", "a:65536", "a:99999", "a:1,b:2", "a b:1", "::1:5"]
)
def test_an_address_is_a_host_and_a_port(address):
    with pytest.raises(ValueError, match="HOST:PORT, its port from 1 to 65535. Received: coordinator="):
        meeting.meet(address, 2, 1)


def test_process_0_is_not_there(port, monkeypatch):
    monkeypatch.setattr(meeting, "SECONDS", 0.5)
    with pytest.raises(ValueError, match=r"Process 0 was not reached within 0.5 s. Received: .*, .*refused"):
        meeting.meet(f"127.0.0.1:{port}", 2, 1)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n", b""])
def test_something_else_is_there(answer, monkeypatch):
    monkeypatch.setattr(meeting, "SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server, concurrent.futures.ThreadPoolExecutor(1) as thread:

        def serve():
            while True:
                try:
                    guest, _ = server.accept()
                except OSError:
                    return
                with guest:
                    guest.recv(100)
                    guest.sendall(answer)

        thread.submit(serve)
        with pytest.raises(ValueError, match="what answers there is no process 0 of keras-aha"):
            meeting.meet(f"127.0.0.1:{server.getsockname()[1]}", 2, 1)
        server.shutdown(socket.SHUT_RDWR)


def test_the_port_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ValueError, match=f"Process 0 cannot listen at port {port}: Address already in use. Received"
        ):
            meeting.meet(f"127.0.0.1:{port}", 2, 0)


def test_the_address_is_another_machines(port, monkeypatch):
    """No machine has this one, which is kept for documentation."""
    monkeypatch.setattr(meeting, "SECONDS", 0.5)
    with pytest.raises(ValueError, match="take one of this machine's own. Received"):
        meeting.meet(f"192.0.2.1:{port}", 1, 0)


def test_some_do_not_come(port, monkeypatch):
    monkeypatch.setattr(meeting, "SECONDS", 1)
    address = f"127.0.0.1:{port}"
    first, third = together((0, address, 4, 0), (0.1, address, 4, 2))
    assert str(first).startswith("These processes have not come within 1 s: 1, 3. Start the same command for each")
    assert str(third).startswith("Process 0 has stopped waiting, and says why. Received: ")
    with pytest.raises(ValueError, match=r"1 s: 1, 2, 3, 4, 5, 6, 7, 8, …\. Start"):
        meeting.meet(address, 2**31 - 1, 0)


def test_one_that_has_left_has_not_come(port):
    address = f"127.0.0.1:{port}"
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        gone = thread.submit(say, port, b"keras-aha: process 1 of 3\n")
        assert together((0, address, 3, 0), (0.8, address, 3, 2), (1.2, address, 3, 1)) == [None] * 3
        gone.result()


def test_they_do_not_belong_together(port):
    address = f"127.0.0.1:{port}"
    first, second = together((0, address, 3, 0), (0.1, address, 4, 1))
    assert "process 1 counts 4 processes. Received: " in str(first) and "says why" in str(second)
    first, second, third = together((0, address, 3, 0), (0.2, address, 3, 1), (0.2, address, 3, 1))
    assert "a second process 1 has come. Received: " in str(first)
    assert "says why" in str(second) and "says why" in str(third)


def test_strangers_are_left_alone(port):
    """Such as whoever looks for open ports."""
    address = f"127.0.0.1:{port}"
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        stranger = thread.submit(say, port, b"GET / HTTP/1.1\r\n\r\n")
        assert together((0, address, 2, 0), (0.8, address, 2, 1)) == [None] * 2
        assert stranger.result() == b""
