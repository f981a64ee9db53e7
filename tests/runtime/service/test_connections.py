"""Connections stay open between requests for --keep-alive seconds, and many idle ones keep nobody out."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest

QUICK = {"labels": [1], "low_steps": 1, "high_steps": 1, "low_diffusion_steps": 2, "high_diffusion_steps": 2}
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


def receive_answer(connection: socket.socket) -> bytes:
    """One answer with a Content-Length."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        part = connection.recv(65536)
        assert part, answer
        answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    (length,) = (
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
    )
    while len(body) < length:
        body += connection.recv(65536)
    assert len(body) == length
    return head + b"\r\n\r\n" + body


def connect(server: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def images(body: Any = QUICK) -> bytes:
    content = json.dumps(body).encode()
    head = "POST /v1/images HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def test_a_connection_takes_many_requests(server: Any) -> None:
    with connect(server) as connection:
        for request, status in (
            (HEALTH, 200), (images(), 200), (images({"labels": [99]}), 400), (images({"labels": [1, 2]}), 200),
            (b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404), (b"HEAD /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", None),
            (HEALTH, 200),
        ):  # fmt: skip
            connection.sendall(request)
            if status is None:
                assert connection.recv(65536).startswith(b"HTTP/1.1 404 ")
                continue
            answer = receive_answer(connection)
            assert answer.startswith(f"HTTP/1.1 {status} ".encode())
            assert b"connection: close" not in answer.lower()


def test_idle_connections_are_closed_in_time(start_server: Any, bundle_path: Any) -> None:
    server = start_server(bundle_path, "--keep-alive", "1.5")
    with connect(server) as connection:
        connection.sendall(HEALTH)
        receive_answer(connection)
        time.sleep(0.8)
        connection.sendall(images())  # the time counts from the last answer
        receive_answer(connection)
        start = time.monotonic()
        assert connection.recv(1) == b""
        assert 1.2 < time.monotonic() - start < 10
    assert server.end() == 0


def test_no_keep_alive_closes_each_connection(start_server: Any, bundle_path: Any) -> None:
    server = start_server(bundle_path, "--keep-alive", "0")
    for request in (HEALTH, images()):
        answer = server.raw(request).lower()  # until the server closes it
        assert answer.startswith(b"http/1.1 200 ") and b"\r\nconnection: close\r\n" in answer
    assert server.end() == 0


@pytest.mark.parametrize("version", ["HTTP/1.1\r\nConnection: close", "HTTP/1.1\r\nConnection: Close", "HTTP/1.0"])
def test_a_client_that_wants_it_closed_is_obeyed(server: Any, version: str) -> None:
    answer = server.raw(f"GET /healthz {version}\r\nHost: x\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_idle_connections_keep_nobody_out(start_server: Any, bundle_path: Any) -> None:
    server = start_server(bundle_path, "--lanes", "1", "--queue", "1")
    idle = [connect(server) for _ in range(200)]
    try:
        for connection in idle[::2]:  # half have asked before, half are new
            connection.sendall(HEALTH)
        for connection in idle[::2]:
            receive_answer(connection)
        assert server.images(QUICK).status == 200
        for connection in idle:
            connection.sendall(HEALTH)
        for connection in idle:
            assert receive_answer(connection).startswith(b"HTTP/1.1 200 ")
    finally:
        for connection in idle:
            connection.close()
    assert server.end() == 0


def test_an_unread_body_is_not_taken_for_a_request(server: Any) -> None:
    hidden = HEALTH * 2
    head = f"GET /v1/model HTTP/1.1\r\nHost: x\r\nContent-Length: {len(hidden)}\r\n\r\n".encode()
    with connect(server) as connection:
        connection.sendall(head + hidden)
        connection.settimeout(2)
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except TimeoutError:
            pass
        assert answer.count(b"HTTP/1.1 ") == 1


def test_a_drain_closes_idle_connections(start_server: Any, bundle_path: Any) -> None:
    server = start_server(bundle_path)
    with connect(server) as connection:
        connection.sendall(HEALTH)
        receive_answer(connection)
        start = time.monotonic()
        assert server.end() == 0
        assert time.monotonic() - start < 20
        assert connection.recv(1) == b""
