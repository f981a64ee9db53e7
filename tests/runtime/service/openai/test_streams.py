"""A stream shows unfinished images, then the one that is answered without it; who leaves it frees the lane."""

from __future__ import annotations

import asyncio
import base64
import http.client
import io
import json
import signal
import socket
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import uvicorn
from PIL import Image

from himar_runtime import Pipeline
from himar_runtime.service.openai import routes
from himar_runtime.service.openai.stream import EventStream
from himar_runtime.service.server import create_app
from himar_runtime.service.service import ClientGoneError, Service, Settings
from tests.runtime.service.openai.conftest import ask, client_of, require_format
from tests.runtime.service.test_batching import CALLS, REQUESTS, Held

PARTIAL, COMPLETED = "image_generation.partial_image", "image_generation.completed"


def picture(event: Any) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(event.b64_json, validate=True)))


def so_far(pipeline: Pipeline, label: int, seed: int) -> list[Any]:
    """What can be seen after each step."""
    seen: list[Any] = []
    pipeline.generate([label], seed=seed, on_step=lambda step: seen.append(step.so_far()[0]))
    return seen


@pytest.mark.parametrize(("asked", "sizes"), [(0, []), (1, [8]), (2, [8, 16]), (3, [8, 16])])
def test_unfinished_images_come_first(client: openai.OpenAI, named_path: Path, asked: int, sizes: list[int]) -> None:
    # Three low steps and two high ones: the pivots and one image in full size can be shown before the last.
    events = list(client.images.generate(prompt="tench", stream=True, partial_images=asked, extra_body={"seed": 7}))
    *partial, last = events
    assert [event.type for event in events] == [PARTIAL] * len(sizes) + [COMPLETED]
    assert [picture(event).size for event in partial] == [(side, side) for side in sizes]
    assert [(event.partial_image_index, event.size) for event in partial] == [
        (index, f"{side}x{side}") for index, side in enumerate(sizes)
    ]
    shown = so_far(Pipeline.load(named_path, threads=1), 2, 7)
    for event, pixels in zip(partial, shown[2:4], strict=False):
        assert np.array_equal(np.asarray(picture(event)), pixels)
        assert (event.output_format, event.quality, event.background) == ("png", "auto", "opaque")
        assert "himar" not in picture(event).info
    plain = client.images.generate(prompt="tench", extra_body={"seed": 7})
    assert last.b64_json == plain.data[0].b64_json
    assert (last.size, last.output_format, last.quality, last.background) == ("16x16", "png", "auto", "opaque")
    assert last.usage.total_tokens == 16 and last.seed == 7 and last.recipe == plain.data[0].recipe


def test_the_bytes_of_a_stream(command: list[str], named_server: Any) -> None:
    require_format(named_server, "jpeg", command)
    reply = ask(named_server, {"prompt": "1", "stream": True, "partial_images": 1, "output_format": "jpeg"})
    assert (reply.status, reply.headers["Content-Type"].split(";")[0]) == (200, "text/event-stream")
    assert (reply.headers["X-Accel-Buffering"], reply.headers["Cache-Control"]) == ("no", "no-store")
    assert reply.headers["Content-Length"] is None
    first, second, nothing = reply.body.decode().split("\n\n")
    assert nothing == ""
    for text, kind in ((first, PARTIAL), (second, COMPLETED)):
        name, data = text.split("\n")
        assert name == f"event: {kind}"
        values = json.loads(data.removeprefix("data: "))
        assert values["type"] == kind and values["output_format"] == "jpeg"
        assert base64.b64decode(values["b64_json"]).startswith(b"\xff\xd8")


def test_a_client_without_chunks_gets_a_stream_until_its_end(named_server: Any) -> None:
    """A proxy that speaks HTTP/1.0 to the server, as nginx does unless it is told otherwise."""
    body = json.dumps({"prompt": "1", "stream": True, "partial_images": 1})
    head = "POST /v1/images/generations HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\n"
    answer = named_server.raw(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    headers, _, events = answer.partition(b"\r\n\r\n")
    assert b" 200 " in headers.splitlines()[0] and b"transfer-encoding" not in headers.lower()
    assert events.startswith(b"event: ") and events.endswith(b"}\n\n") and len(events_of(events)) == 2


def test_hmar_shows_its_scales(start_server: Any, tiny_hmar_path: Path) -> None:
    server = start_server(tiny_hmar_path)
    pipeline = Pipeline.load(tiny_hmar_path, threads=1)
    events = list(client_of(server).images.generate(prompt="1", stream=True, partial_images=3, extra_body={"seed": 5}))
    shown = so_far(pipeline, 1, 5)
    assert [event.type for event in events] == [PARTIAL] * min(3, len(shown) - 1) + [COMPLETED]
    assert np.array_equal(np.asarray(picture(events[0])), shown[0])
    assert server.end() == 0


def test_a_stream_is_counted_at_its_end(client: openai.OpenAI, named_server: Any) -> None:
    before = named_server.metrics()
    answer = client.images.with_raw_response.generate(prompt="1", stream=True, partial_images=1)
    assert [event.type for event in answer.parse()] == [PARTIAL, COMPLETED]
    named_server.wait_for("himar_requests_total{code=200}", before.get("himar_requests_total{code=200}", 0) + 1)
    after = named_server.metrics()
    for name in ("himar_images_total", "himar_request_seconds_count", "himar_stage_seconds_count{stage=preview}"):
        assert after[name] - before.get(name, 0) == 1
    assert f"{answer.headers['x-request-id']} 200 images=1 queued=" in named_server.log.read_text()


def test_a_failure_before_the_first_event_has_its_status(start_server: Any, make_bundle: Any) -> None:
    server = start_server(make_bundle(poison={"transformer_low": float("nan")}))
    with pytest.raises(openai.InternalServerError, match="transformer_low returned values that are not finite"):
        client_of(server).images.generate(prompt="0", stream=True, partial_images=2)
    assert server.end() == 0


def test_a_failure_in_a_stream_is_an_event_of_it(start_server: Any, make_bundle: Any) -> None:
    # Phase high fails, after the pivots were shown.
    server = start_server(make_bundle(poison={"transformer_high": float("nan")}))
    stream = client_of(server).images.generate(prompt="0", stream=True, partial_images=1)
    assert next(iter(stream)).type == PARTIAL
    with pytest.raises(openai.APIError, match="transformer_high returned values that are not finite"):
        list(stream)
    server.wait_for("himar_requests_total{code=500}", 1)
    assert client_of(server).images.generate(prompt="1", stream=True).response.status_code == 200
    assert server.end() == 0


def test_a_preview_that_cannot_be_decoded_is_left_out(start_server: Any, make_bundle: Any, edit_manifest: Any) -> None:
    def fix(manifest: dict[str, Any]) -> None:
        manifest["components"]["vae_decoder"]["inputs"][0]["shape"][2:] = [4, 4]

    path = make_bundle()
    edit_manifest(path, fix)
    server = start_server(path)
    events = list(client_of(server).images.generate(prompt="1", stream=True, partial_images=2))
    assert [(event.type, event.size) for event in events] == [(PARTIAL, "16x16"), (COMPLETED, "16x16")]
    assert events[0].partial_image_index == 0
    assert server.end() == 0


def test_whoever_leaves_a_stream_frees_its_lane(start_server: Any, slow_path: Path) -> None:
    server = start_server(slow_path)
    stream = client_of(server).images.generate(prompt="1", stream=True, partial_images=1)
    assert next(iter(stream)).type == PARTIAL
    assert server.metrics()["himar_lanes_busy"] == 1
    stream.close()
    server.wait_for("himar_lanes_busy", 0)
    server.wait_for("himar_requests_total{code=499}", 1)
    assert server.metrics()["himar_cancelled_total{reason=disconnect}"] == 1
    assert server.end() == 0


def test_a_client_that_stops_reading_holds_no_lane(start_server: Any, slow_path: Path) -> None:
    server = start_server(slow_path, "--timeout", "3")
    body = json.dumps({"prompt": "1", "stream": True, "partial_images": 3}).encode()
    head = "POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as silent:
        silent.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        server.wait_for("himar_lanes_busy", 1)
        server.wait_for("himar_lanes_busy", 0)
        server.wait_for("himar_requests_total{code=504}", 1)
        assert server.metrics()["himar_cancelled_total{reason=timeout}"] == 1
        silent.settimeout(30)
        found = b""
        while b"event: error" not in found or not found.endswith(b"0\r\n\r\n"):
            part = silent.recv(65536)
            assert part, found
            found += part
    assert found.startswith(b"HTTP/1.1 200 ") and b"no answer within 3 s" in found
    assert server.end() == 0


def test_a_client_that_takes_no_event_in_time_counts_as_gone() -> None:
    """With events larger than what the sockets hold, under the HTTP server of the service."""
    ended: list[str] = []

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            for _ in range(50):
                yield b"data: " + b" " * 1_000_000 + b"\n\n"
            ended.append("all were sent")
        finally:
            ended.append("closed")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        following = events()
        try:
            await EventStream(await anext(following), following, 0.5)(scope, receive, send)
        except ClientGoneError:
            ended.append("gone")

    async def run() -> None:
        config = uvicorn.Config(app, http="h11", lifespan="off", log_config=None)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server.serve([listener]))
            with socket.create_connection(listener.getsockname()) as silent:
                silent.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                async with asyncio.timeout(30):
                    while "gone" not in ended:
                        await asyncio.sleep(0.02)
            server.should_exit = True
            await serving

    asyncio.run(run())
    assert ended == ["closed", "gone"]


def test_comments_keep_a_quiet_stream_alive(named_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's application in this process, so that silence need not last ten seconds."""
    monkeypatch.setattr(routes, "_SECONDS_OF_SILENCE", 0.001)
    found: dict[str, Any] = {}

    def ask_for_streams(port: int) -> None:
        body = json.dumps({"prompt": "1", "stream": True})
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/v1/images/generations", body, {"Content-Type": "application/json"})
        found["bytes"] = connection.getresponse().read()
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        found["events"] = [event.type for event in client.images.generate(prompt="1", stream=True)]

    async def run() -> None:
        service = Service(Settings(named_path, threads=1))
        try:
            server = uvicorn.Server(uvicorn.Config(create_app(service), http="h11", lifespan="off", log_config=None))
            with socket.create_server(("127.0.0.1", 0)) as listener:
                serving = asyncio.create_task(server.serve([listener]))
                await asyncio.to_thread(ask_for_streams, listener.getsockname()[1])
                server.should_exit = True
                await serving
        finally:
            service.close()

    asyncio.run(run())
    *comments, last, nothing = found["bytes"].decode().split("\n\n")
    assert set(comments) == {": no news yet"} and nothing == ""
    assert last.startswith(f"event: {COMPLETED}\ndata: ")
    assert found["events"] == [COMPLETED]


def test_a_drain_ends_a_stream_with_its_reason(start_server: Any, slow_path: Path) -> None:
    server = start_server(slow_path, "--drain-seconds", "0.2")
    stream = client_of(server).images.generate(prompt="1", stream=True, partial_images=1)
    assert next(iter(stream)).type == PARTIAL
    server.process.send_signal(signal.SIGTERM)
    with pytest.raises(openai.APIError, match="shutting down and could not finish the request"):
        list(stream)
    assert server.process.wait(timeout=60) == 0


def test_streams_join_calls_and_show_their_own_images(start_server: Any, named_path: Path, slow: Any) -> None:
    server = start_server(named_path)
    hold = Held(server, slow)
    bodies = [{"prompt": name, "seed": 7, "stream": True, "partial_images": 2} for name in ("1", "tench")]
    with ThreadPoolExecutor(2) as threads:
        answers = [threads.submit(ask, server, body) for body in bodies]
        server.wait_for("himar_queue_length", 2)
        hold.release()
        joined = [answer.result().body for answer in answers]
    assert hold.grown(CALLS, REQUESTS) == [1, 2]
    alone = [ask(server, body).body for body in bodies]
    for together, single in zip(joined, alone, strict=True):
        assert events_of(together) == events_of(single)
    assert server.end() == 0


def events_of(body: bytes) -> list[tuple[str, str]]:
    """Type and image of each event."""
    values = [json.loads(line[6:]) for line in body.decode().splitlines() if line.startswith("data: ")]
    return [(event["type"], event["b64_json"]) for event in values]


def test_a_stream_that_runs_again_alone_shows_each_image_once(start_server: Any, make_bundle: Any, slow: Any) -> None:
    # Phase high fails for class 0, after the pivots of both were shown.
    server = start_server(make_bundle(poison={"transformer_high": float("nan")}))
    hold = Held(server, slow)
    bodies = [{"prompt": "1", "stream": True, "partial_images": 2}, {"prompt": "0"}]
    with ThreadPoolExecutor(2) as threads:
        stream, failed = (threads.submit(ask, server, body) for body in bodies)
        server.wait_for("himar_queue_length", 2)
        hold.release()
        events = [kind for kind, _ in events_of(stream.result().body)]
        assert failed.result().status == 500
    assert hold.grown(CALLS, REQUESTS) == [1, 2]
    assert events == [PARTIAL, PARTIAL, COMPLETED]
    assert server.end() == 0
