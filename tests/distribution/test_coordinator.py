"""Real sockets of this machine."""

import socket
import threading

from keras_aha.distribution import coordinator
from keras_aha.distribution.coordinator import try_coordinator

import pytest


@pytest.fixture
def port():
    """One that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_process_waits_for_process_0(port):
    server = []
    timer = threading.Timer(0.5, lambda: server.append(socket.create_server(("127.0.0.1", port))))
    timer.start()
    try_coordinator(f"localhost:{port}", 1)
    assert server
    server[0].close()


def test_process_0_leaves_the_port_free(port):
    try_coordinator(f"127.0.0.1:{port}", 0)
    socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize("address", ["abc", ":80", "a:b", "a:0", "a:65536", "a:1,b:2", "a b:1", "::1:5"])
def test_an_address_is_a_host_and_a_port(address):
    with pytest.raises(ValueError, match="HOST:PORT, its port from 1 to 65535. Received: coordinator="):
        try_coordinator(address, 1)


def test_process_0_is_not_there(port, monkeypatch):
    monkeypatch.setattr(coordinator, "SECONDS", 0.5)
    with pytest.raises(ValueError, match=r"Process 0 was not reached within 0.5 s. Received: .*, .*refused"):
        try_coordinator(f"127.0.0.1:{port}", 1)


def test_the_port_is_taken():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"cannot listen at port {port}: Address already in use.*Received"):
            try_coordinator(f"127.0.0.1:{port}", 0)
