"""Slow clients against a real uvicorn: idle and trickling connections keep nobody out and do not stay."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack, suppress

import httpx
import pytest
import uvicorn
from serving_tools import make_client, tensors

from tasks.serving import connections
from tasks.serving.connections import ImpatientProtocol

MOST, IDLE = 60, 80


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A service that waits 1 s for headers and for bodies, with at most `MOST` connections."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "HEADER_SECONDS", 1.0)
        patch.setattr(connections, "MAX_CONNECTIONS", MOST)
        app = make_client(tmp_path_factory.mktemp("slow"), body_seconds=1.0).app
        server = uvicorn.Server(uvicorn.Config(app, http=ImpatientProtocol, ws="none", log_level="error"))
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield listener.getsockname()
        server.should_exit = True
        thread.join(10)


def asked(address) -> httpx.Response:
    url = f"http://{address[0]}:{address[1]}/invocations"
    return httpx.post(url, json={"inputs": tensors(1).tolist()}, timeout=10)


def closed(client: socket.socket, within: float) -> bool:
    """Does the server end this connection in time? What it still says is read and thrown away."""
    client.settimeout(within)
    try:
        while client.recv(4096):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /invocations HTTP/1.1\r\nHost: x\r\n",
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n{",
        b"GET /ping HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n{",
    ],
    ids=["silent", "half a header", "half a body", "a body that nobody reads"],
)
def test_more_slow_clients_than_connections_keep_nobody_out(address, sent):
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(address, timeout=10)) for _ in range(IDLE)]
        for client in slow:
            client.sendall(sent) if sent else None
        for _ in range(3):
            assert asked(address).status_code == 200
        assert all(closed(client, 10) for client in slow)
        assert asked(address).status_code == 200


def test_a_trickle_of_headers_is_cut_off(address):
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(b"GET /ping HTTP/1.1\r\n")
        started = time.monotonic()
        while not closed(client, 0.05):
            assert time.monotonic() < started + 10
            with suppress(ConnectionError):
                client.sendall(b"X-A: b\r\n")


def test_a_quick_client_may_ask_again_on_the_same_connection(address):
    with httpx.Client(base_url=f"http://{address[0]}:{address[1]}") as client:
        for _ in range(5):
            assert client.get("/ping").status_code == 200
            time.sleep(0.3)  # longer together than a header may take: each request has its own time


def test_what_is_no_http_ends_its_own_connection_alone(address):
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(b"\x16\x03\x01\0\xa5 hello\r\n\r\n")
        assert closed(client, 10)
    assert asked(address).status_code == 200
