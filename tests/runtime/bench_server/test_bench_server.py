"""himar-bench-server against real servers, and what it says of those that fail or are none."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from himar_runtime.bench_server.cli import main
from tests.runtime.service.conftest import PYTHON, Server

QUICK = ["--set", "low_steps=1", "--set", "high_steps=1"]
Measure = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Start the Python service on a bundle and return its address."""
    servers: list[Server] = []

    def started(bundle: Path, *options: str) -> str:
        servers.append(Server(PYTHON, bundle, tmp_path_factory.mktemp("log") / "log", *options))
        return f"http://127.0.0.1:{servers[-1].port}"

    yield started
    for server in servers:
        server.end()


@pytest.fixture(scope="module")
def url(start: Callable[..., str], bundle_path: Path) -> str:
    return start(bundle_path, "--queue", "64", "--root-path", "/himar")


@pytest.fixture
def measure(capsys: pytest.CaptureFixture[str]) -> Measure:
    def measured(*arguments: str) -> tuple[int, Any]:
        code = main([*arguments, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return measured


@pytest.mark.parametrize("place", ["", "/himar", "/himar/"])
def test_clients_are_measured_and_a_request_s_time_is_divided(url: str, measure: Measure, place: str) -> None:
    code, report = measure(url + place, "--requests", "30", "--concurrency", "6", "--images", "2", *QUICK)
    assert (code, report["failures"], report["statuses"]) == (0, 0, {"200": 30})
    latency = report["latency"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p95"] <= latency["p99"] <= latency["max"]
    assert report["images_per_second"] == pytest.approx(60 / report["seconds"])
    assert list(report["stages"]) == ["queue", "low", "high", "decode", "encode", "rest"]
    assert sum(report["stages"].values()) == pytest.approx(latency["mean"])
    assert report["calls"]["count"] * report["calls"]["requests"] == pytest.approx(30)
    assert report["calls"]["images"] == pytest.approx(2 * report["calls"]["requests"])
    assert report["first_event"] == {}
    assert report["asked"] == {
        "requests": 30, "images": 2, "api": "himar", "sampling": None, "partial_images": None, "low_steps": 1,
        "high_steps": 1, "concurrency": 6,
    }  # fmt: skip


def test_a_rate_is_kept_whatever_the_server_makes_of_it(url: str, measure: Measure) -> None:
    code, report = measure(url, "--requests", "60", "--rate", "100", "--sampling", "plain", *QUICK)
    assert (code, report["failures"]) == (0, 0)
    assert 0.2 < report["seconds"] < 6
    assert report["asked"]["rate"] == 100


def test_streams_have_a_first_event(url: str, measure: Measure) -> None:
    code, report = measure(
        url, "--requests", "6", "--api", "openai", "--partial-images", "2", "--concurrency", "2", "--labels", "1,3"
    )
    assert (code, report["statuses"]) == (0, {"200": 6})
    assert 0 < report["first_event"]["p50"] < report["latency"]["p50"]


def test_openai_s_path_without_streams(url: str, measure: Measure) -> None:
    code, report = measure(url, "--requests", "4", "--api", "openai", "--images", "3", "--labels", "2")
    assert (code, report["failures"]) == (0, 0)
    assert report["images_per_second"] == pytest.approx(12 / report["seconds"])


def test_texts(start: Callable[..., str], tiny_text_path: Path, measure: Measure) -> None:
    server = start(tiny_text_path)
    code, report = measure(server, "--requests", "4", "--prompt", "red", "--prompt", "two", *QUICK)
    assert (code, report["failures"]) == (0, 0)
    code, report = measure(server, "--requests", "4", "--prompt", "red", "--api", "openai")
    assert (code, report["failures"]) == (0, 0)


def test_failures_are_counted_with_their_reasons(
    start: Callable[..., str], bundle_path: Path, measure: Measure, capsys: pytest.CaptureFixture[str]
) -> None:
    server = start(bundle_path, "--lanes", "1", "--queue", "1", "--max-batch", "1")
    code, report = measure(server, "--requests", "24", "--concurrency", "12", "--set", "high_diffusion_steps=200")
    assert code == 1
    refused = report["statuses"]["429"]
    assert refused == report["failures"] == 24 - report["statuses"]["200"] > 0
    assert report["reasons"] == {"all lanes are at work and 1 requests wait; try again later.": refused}
    assert main([server, "--requests", "2", "--sampling", "nothing"]) == 1
    assert "2 of 2 requests failed." in capsys.readouterr().out
    code, report = measure(server, "--requests", "2", "--timeout", "0.001", "--warm-up", "0")
    assert (code, report["statuses"], report["latency"]) == (1, {"0": 2}, {})


def test_people_get_a_table(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([url, "--requests", "8", "--concurrency", "4", *QUICK]) == 0
    text = capsys.readouterr().out
    assert f"8 requests to {url}, 4 clients" in text
    assert all(
        part in text for part in ("answer", "p99", "images and", "calls of the engines", "a request's time: queue")
    )


def test_a_token(start: Callable[..., str], bundle_path: Path, tmp_path: Path, measure: Measure) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("# ours\nsecret-token\n")
    server = start(bundle_path, "--token-file", str(tokens))
    code, report = measure(server, "--requests", "2", "--token-file", str(tokens), *QUICK)
    assert (code, report["failures"]) == (0, 0)
    said = refusal([server, "--requests", "2"])
    assert said == f"error: {server} wants a token; give a file that holds one with --token-file."


def refusal(arguments: Sequence[str]) -> str:
    """Run the command in vain and return what it says."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert main(arguments) == 1
    return said.getvalue().strip()


def test_what_is_no_server_of_ours(url: str, start: Callable[..., str], tiny_text_path: Path) -> None:
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        there = f"http://127.0.0.1:{other.server_port}"
        assert "answers, but not as himar-serve does; give the address of one." in refusal([there])
        other.shutdown()
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    assert "start himar-serve there, or give its address." in refusal([f"http://127.0.0.1:{port}"])
    said = refusal([url, "--prompt", "red"])
    assert "makes images of classes; give --labels, or nothing for every class." in said
    said = refusal([start(tiny_text_path)])
    assert "makes images from text; give --prompt or --prompts-file." in said


class Told:
    """A server that answers as it is told: GETs by their paths, and the POST."""

    def __init__(self, timing: Sequence[str], kind: str, body: bytes, metrics: Sequence[bytes] = ()) -> None:
        scrapes = list(metrics)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                model = json.dumps({"max_batch": 4, "classes": 2}).encode()
                self.answer("application/json", model if self.path == "/v1/model" else scrapes.pop(0))

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(kind, body, timing)

            def answer(self, content_type: str, content: bytes, timing: Sequence[str] = ()) -> None:
                self.send_response(200)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(content)))
                for each in timing:
                    self.send_header("Server-Timing", each)
                self.end_headers()
                first, pause, rest = content.partition(b"\n\n")
                self.wfile.write(first)
                if pause:
                    time.sleep(0.3)
                    self.wfile.write(pause + rest)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


IMAGE = json.dumps({"images": [{"png": ""}]}).encode()


def scrape(count: int, requests: int, images: int, labels: str = "") -> bytes:
    names = ("batch_requests_count", "batch_requests_sum", "batch_images_sum")
    values = zip(names, (count, requests, images), strict=True)
    return "".join(f"himar_{name}{labels} {value}.0\n" for name, value in values).encode()


@pytest.mark.parametrize(
    ("timing", "stages"),
    [
        (['cdn;desc="a, b";dur=9', "queue;dur=1.5, low;dur=2, encode;dur=3, edge;dur=99"], ["queue", "low", "encode"]),
        (["edge;dur=1.2.3, cache;dur=7"], []),
        ([], []),
    ],
)
def test_stages_are_the_server_s_alone(timing: list[str], stages: list[str], measure: Measure) -> None:
    with Told(timing, "application/json", IMAGE, [b"", b""]) as there:
        code, report = measure(there, "--requests", "2")
    assert (code, list(report["stages"])) == (0, [*stages, "rest"] if stages else [])
    if stages:
        assert [report["stages"][name] for name in stages] == pytest.approx([0.0015, 0.002, 0.003])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (scrape(5, 9, 9), scrape(1, 1, 1)),  # started again meanwhile
        (scrape(1, 1, 1, '{replica="1"}'), scrape(2, 2, 2, '{replica="1"}')),
        (scrape(1, 1, 1), b"himar_batch_requests_count many\n"),
        (b"\xff\xfe", b""),
    ],
)
def test_calls_that_are_not_known_are_left_out(before: bytes, after: bytes, measure: Measure) -> None:
    with Told([], "application/json", IMAGE, [before, after]) as there:
        code, report = measure(there, "--requests", "1")
    assert (code, report["calls"]) == (0, {})


def test_a_stream_without_its_last_image_has_failed(measure: Measure) -> None:
    partial = b'event: image_generation.partial_image\ndata: {"type": "image_generation.partial_image", "b64_json": ""}'
    arguments = ["--requests", "1", "--warm-up", "0", "--api", "openai", "--partial-images", "1"]
    with Told([], "text/event-stream", partial + b"\n\n", [b"", b""]) as there:
        code, report = measure(there, *arguments)
    assert (code, report["statuses"]) == (1, {"0": 1})
    assert report["reasons"] == {"a stream that ended before its last image": 1}


def test_a_comment_is_no_event(measure: Measure) -> None:
    last = b'event: image_generation.completed\ndata: {"type": "image_generation.completed", "b64_json": ""}\n\n'
    arguments = ["--requests", "1", "--warm-up", "0", "--api", "openai", "--partial-images", "1"]
    with Told([], "text/event-stream", b": no news yet\n\n" + last, [b"", b""]) as there:
        code, report = measure(there, *arguments)
    assert code == 0 and report["first_event"]["p50"] > 0.25


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "Missing argument 'URL'"),
        (["localhost:8000"], "'localhost:8000' is not the address of a server; write it like http://localhost:8000."),
        (["http://x", "--rate", "0"], "--rate"),
        (["http://x", "--rate", "1", "--concurrency", "2"], "--concurrency and --rate are both given"),
        (["http://x", "--partial-images", "1"], "--partial-images needs --api openai, and one image in a request."),
        (["http://x", "--partial-images", "4", "--api", "openai"], "--partial-images"),
        (["http://x", "--labels", "1", "--prompt", "red"], "--labels and prompts are both given; give what the server"),
        (["http://x", "--set", "low_steps"], "'low_steps' has no value; write KEY=VALUE, for example low_steps=8."),
        (["http://x", "--labels", "cat"], "'cat' is not a number; classes are given by number here, like 0-9."),
        (["http://x", "--token-file", "/nowhere/tokens"], "/nowhere/tokens cannot be read"),
    ],
    ids=str,
)
def test_wrong_usage(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options) == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())
