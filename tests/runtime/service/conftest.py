"""himar-serve as a client sees it: a process of its own, in Python or in C++, and HTTP."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from himar_runtime import Pipeline

ROOT = Path(__file__).parents[3]
PYTHON = [sys.executable, "-c", "import sys; from himar_runtime.service.cli import main; sys.exit(main())"]
BUILD = ROOT / "build" / "cpp" / "release"
JSON = {"Content-Type": "application/json"}

LONG = {"low_steps": 4, "high_steps": 16}


@dataclass(frozen=True)
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """A running server. Its threads run one operator on one core, so that lanes share a machine's cores."""

    def __init__(self, command: list[str], bundle: Path, log: Path, *options: str) -> None:
        self.log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*command, str(bundle), "--port", "0", "--threads", "1", *options],
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        assert self.process.stdout is not None
        said: IO[bytes] = self.process.stdout
        line = said.readline().decode()
        assert line.startswith("himar-serve: listening on http://127.0.0.1:"), f"{line}{log.read_text()}"
        self.port = int(line.rpartition(":")[2])

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def start(self, values: Any) -> http.client.HTTPConnection:
        """Ask for images and don't wait; `reply` takes the answer, `close` of the connection gives up."""
        connection = self.connect()
        connection.request("POST", "/v1/images", json.dumps(values), JSON)
        return connection

    @staticmethod
    def reply(connection: http.client.HTTPConnection) -> Reply:
        response = connection.getresponse()
        return Reply(response.status, response.headers, response.read())

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        connection = self.connect()
        connection.request(method, path, body, headers or {})
        reply = self.reply(connection)
        connection.close()
        return reply

    def images(self, values: Any, **headers: str) -> Reply:
        body = values if isinstance(values, bytes) else json.dumps(values).encode()
        return self.ask("POST", "/v1/images", body, {**JSON, **headers})

    def raw(self, request: bytes) -> bytes:
        """Send bytes and return what comes back until the server closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def metrics(self) -> dict[str, float]:
        """Every sample by its name and labels, as they stand in the text."""
        samples = {}
        for family in text_string_to_metric_families(self.ask("GET", "/metrics").body.decode()):
            for sample in family.samples:
                labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
                samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return samples

    def wait_for(self, name: str, value: float) -> None:
        """Wait until a metric has this value."""
        deadline = time.monotonic() + 60
        while (found := self.metrics().get(name, 0.0)) != value:
            assert time.monotonic() < deadline, f"{name} is {found}, not {value}"
            time.sleep(0.04)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


@pytest.fixture(scope="session", params=["python", "cpp"])
def command(request: pytest.FixtureRequest) -> list[str]:
    """How each server is started."""
    if request.param == "python":
        return PYTHON
    programs = sorted(BUILD.glob("**/himar-serve"))
    if not programs:
        pytest.skip("needs the C++ service in build/cpp/release: run `make cpp` once, which builds it")
    return [str(programs[0])]


@pytest.fixture(scope="session")
def start_server(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Start servers: start_server(bundle, *options); what still runs at the end is killed."""
    servers = []
    folder = tmp_path_factory.mktemp("servers")

    def start(bundle: Path, *options: str) -> Server:
        servers.append(Server(command, bundle, folder / f"{len(servers)}.log", *options))
        return servers[-1]

    yield start
    for server in servers:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="session")
def server(start_server: Callable[..., Server], bundle_path: Path) -> Server:
    """A server of the tiny bundle that tests of single requests share."""
    return start_server(bundle_path, "--lanes", "2", "--max-images", "16", "--max-body", "4096")


@pytest.fixture(scope="session")
def pipeline(bundle_path: Path) -> Pipeline:
    """What the server runs, here."""
    return Pipeline.load(bundle_path, threads=1)


@pytest.fixture(scope="session")
def slow(command: list[str]) -> dict[str, Any]:
    """A request that takes seconds of CPU time unless it is cancelled, and a few tenths of one until it is."""
    labels = [1] * (8 if command == PYTHON else 48)
    return {"labels": labels, **LONG, "low_diffusion_steps": 1000, "high_diffusion_steps": 1000}


@pytest.fixture(scope="session")
def work(command: list[str]) -> dict[str, Any]:
    """A request to be waited for that takes about a second of CPU time, so that a busy machine still sees it run."""
    images, steps = (1, 600) if command == PYTHON else (4, 1000)
    return {"labels": [1] * images, **LONG, "low_diffusion_steps": steps, "high_diffusion_steps": steps}
