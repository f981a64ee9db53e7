"""How the process starts and ends: what was accepted is answered, and an operator is told what was wrong."""

from __future__ import annotations

import contextlib
import http.client
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

QUICK = {"labels": [1], "low_steps": 1, "high_steps": 1, "low_diffusion_steps": 2, "high_diffusion_steps": 2}


def start_two(server: Any, request: Any) -> tuple[Any, Any]:
    """Start two requests: the only lane runs the first, and the second waits; a signal before that would refuse one."""
    running = server.start(request)
    server.wait_for("himar_lanes_busy", 1)
    queued = server.start(request)
    server.wait_for("himar_queue_length", 1)
    return running, queued


def test_sigterm_finishes_what_was_accepted(start_server: Any, bundle_path: Path, work: Any) -> None:
    server = start_server(bundle_path, "--timeout", "300", "--drain-seconds", "300")
    running, queued = start_two(server, work)
    idle = server.connect()
    idle.connect()  # a connection kept open must not hold the end up
    server.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 60
    while (health := server.ask("GET", "/healthz")).status == 200:
        assert time.monotonic() < deadline
    assert (health.status, health.json) == (503, {"status": "draining"})
    late = server.images(QUICK)
    assert (late.status, late.headers["Connection"].lower()) == (503, "close")
    assert late.json["error"].endswith(".")
    assert [server.reply(each).status for each in (running, queued)] == [200, 200]
    assert server.process.wait(timeout=60) == 0
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        server.ask("GET", "/healthz")


def test_what_is_not_done_in_time_is_cancelled(start_server: Any, bundle_path: Path, slow: Any) -> None:
    server = start_server(bundle_path, "--drain-seconds", "0.2")
    running, queued = start_two(server, slow)
    start = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    replies = [server.reply(each) for each in (running, queued)]
    assert [reply.status for reply in replies] == [503, 503]
    assert all(reply.json["error"].endswith(".") for reply in replies)
    assert server.process.wait(timeout=60) == 0
    assert time.monotonic() - start >= 0.2


def test_a_second_signal_ends_at_once(start_server: Any, bundle_path: Path, slow: Any) -> None:
    server = start_server(bundle_path, "--drain-seconds", "600")
    running = server.start(slow)
    server.wait_for("himar_lanes_busy", 1)
    server.process.send_signal(signal.SIGINT)
    while server.ask("GET", "/healthz").status == 200:
        pass
    server.process.send_signal(signal.SIGTERM)
    assert server.reply(running).status == 503
    assert server.process.wait(timeout=60) == 0


def test_a_client_that_sends_forever_cannot_hold_the_end_up(start_server: Any, bundle_path: Path) -> None:
    server = start_server(bundle_path)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"POST /v1/images HTTP/1.1\r\nX-Slow: ")
        time.sleep(0.5)  # somebody reads by now
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 30
        while server.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):  # gone, as it should be
                client.sendall(b"x")
            time.sleep(0.1)
        assert server.process.poll() == 0


def _run(command: list[str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ([], ""),
        (["bundle", "--lanes", "0"], "--lanes"),
        (["bundle", "--lanes", "100000"], "--lanes"),
        (["bundle", "--port", "70000"], "--port"),
        (["bundle", "--timeout", "soon"], "--timeout"),
        (["bundle", "--timeout", "nan"], "--timeout"),
        (["bundle", "--keep-alive", "-1"], "--keep-alive"),
        (["bundle", "--max-batch", "0"], "--max-batch"),
        (["bundle", "--queue-delay", "10001"], "--queue-delay"),
        (["bundle", "--queue-delay", "-1"], "--queue-delay"),
        (["bundle", "--keep-alive", "inf"], "--keep-alive"),
        (["bundle", "--no-such-option", "1"], "--no-such-option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_usage_exits_with_2(command: list[str], options: list[str], part: str) -> None:
    done = _run(command, *options)
    assert done.returncode == 2
    assert part in done.stderr and done.stdout == ""


def test_both_servers_explain_the_same_options(command: list[str]) -> None:
    done = _run(command, "--help")
    options = re.findall(r"^ +(?:-h, )?(--[a-z-]+)", done.stdout, re.MULTILINE)
    assert set(options) | {"--help", "--version"} == {
        "--host", "--port", "--lanes", "--device", "--threads", "--backend", "--queue", "--max-images", "--max-body",
        "--timeout", "--drain-seconds", "--keep-alive", "--allow-origin", "--version", "--help",
        "--token-file", "--root-path", "--log-json", "--max-batch", "--queue-delay",
    }  # fmt: skip
    assert "HIMAR_ORT_PACKED=1 in the environment keeps weights packed on the disk" in " ".join(done.stdout.split())


def test_more_threads_than_the_system_gives_are_a_sentence(command: list[str], bundle_path: Path) -> None:
    if Path(command[0]).name != "himar-serve":
        pytest.skip("the Python service has no thread for each request")
    limited = ["bash", "-c", 'ulimit -v 4000000 && exec "$@"', "bash", *command]  # KiB of addresses, for 8 MiB stacks
    many = ("--lanes", "16", "--queue", "64", "--max-batch", "1")
    done = _run(limited, bundle_path, "--port", "0", "--threads", "1", *many)
    assert (done.returncode, done.stdout) == (1, "")
    said = "of the 1104 threads that --lanes, --queue and --max-batch ask for"
    assert said in done.stderr and done.stderr.count("\n") == 1


def test_what_cannot_be_served_exits_with_1(command: list[str], bundle_path: Path, tmp_path: Path) -> None:
    done = _run(command, tmp_path / "none", "--port", "0")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1 and f"{tmp_path / 'none'} is not a folder" in done.stderr
    done = _run(command, bundle_path, "--port", "0", "--device", "tpu")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "device is 'tpu'" in done.stderr
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = _run(command, bundle_path, "--port", str(other.getsockname()[1]))
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "cannot listen" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_server_listens_is_no_failure(monkeypatch, capsys, bundle_path: Path, number) -> None:
    """The Python service alone: until uvicorn takes signals, they are the command's."""
    from himar_runtime.service import cli, server

    monkeypatch.setattr(server, "serve", lambda *asked: signal.raise_signal(number))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert cli.main([str(bundle_path)]) == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "stopped before it served anything.\n"
