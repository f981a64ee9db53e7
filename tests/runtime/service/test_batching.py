"""Requests of several clients run in one call of the engines, and each gets what it would get alone."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from himar_runtime import Pipeline
from himar_runtime.service.policy import Policy
from tests.runtime.service.conftest import Reply, Server
from tests.runtime.service.test_images import assert_same

QUICK = {"low_steps": 2, "high_steps": 1, "low_diffusion_steps": 4, "high_diffusion_steps": 3}
CALLS, REQUESTS, IMAGES = "himar_batch_requests_count", "himar_batch_requests_sum", "himar_batch_images_sum"


@pytest.fixture(scope="module")
def one_lane(start_server: Any, bundle_path: Path) -> Server:
    server: Server = start_server(bundle_path, "--queue", "64")
    return server


class Held:
    """A server whose lane works on a long request, so that others wait."""

    def __init__(self, server: Server, slow: Any) -> None:
        self._server = server
        calls = server.metrics()[CALLS]
        self._first = server.start(slow)
        server.wait_for(CALLS, calls + 1)
        self._before = server.metrics()

    def start(self, *requests: Any) -> list[HTTPConnection]:
        """Send requests, and return when they wait in this order."""
        sent = []
        for values in requests:
            waiting = self._server.metrics()["himar_queue_length"]
            sent.append(self._server.start(values))
            self._server.wait_for("himar_queue_length", waiting + 1)
        return sent

    def release(self) -> None:
        """Give the lane to those that wait."""
        self._first.close()

    def grown(self, *names: str) -> list[float]:
        """By how much metrics grew since the long request began."""
        after = self._server.metrics()
        return [after[name] - self._before.get(name, 0.0) for name in names]


@pytest.fixture
def held(one_lane: Server, slow: Any) -> Iterator[Held]:
    hold = Held(one_lane, slow)
    yield hold
    hold.release()
    one_lane.wait_for("himar_lanes_busy", 0)


def replies(sent: list[HTTPConnection]) -> list[Reply]:
    return [Server.reply(connection) for connection in sent]


def test_twenty_four_that_wait_are_at_most_two_calls(held: Held, pipeline: Pipeline) -> None:
    requests = [{"labels": [seed % 5], "seed": 1000 + seed, "first_index": seed // 3, **QUICK} for seed in range(24)]
    sent = held.start(*requests)
    held.release()
    for reply, values in zip(replies(sent), requests, strict=True):
        assert reply.status == 200
        assert_same(reply.json, pipeline.generate(**values))
    calls, joined, images = held.grown(CALLS, REQUESTS, IMAGES)
    assert calls <= 2 and joined == images == 24


def test_requests_of_several_images_and_answers_of_every_kind_join(held: Held, pipeline: Pipeline) -> None:
    requests = [
        {"labels": [1, 3, 2], "seed": 2**64 - 1, "first_index": 2**32 - 4, **QUICK},
        {"labels": [4], "seed": 0, "output": "latents", **QUICK},
        {"labels": [0, 0], "seed": 0, **QUICK},
    ]
    first, latents, last = held.start(*requests)
    held.release()
    assert_same(Server.reply(first).json, pipeline.generate(**requests[0]))
    assert list(Server.reply(latents).json["images"][0]["shape"]) == [2, 4, 4]
    assert_same(Server.reply(last).json, pipeline.generate(**requests[2]))
    assert held.grown(CALLS, REQUESTS, IMAGES) == [1, 3, 6]


def test_only_equal_settings_join_and_nobody_is_passed_over_twice(held: Held, pipeline: Pipeline) -> None:
    settings = [QUICK, {**QUICK, "guidance": 2.5}, QUICK, {**QUICK, "low_steps": 1}, {**QUICK, "guidance": 2.5}]
    requests = [{"labels": [1], "seed": seed, **values} for seed, values in enumerate(settings)]
    sent = held.start(*requests)
    held.release()
    for reply, values in zip(replies(sent), requests, strict=True):
        assert_same(reply.json, pipeline.generate(**values))
    assert held.grown(CALLS, REQUESTS) == [3, 5]


@dataclass(frozen=True, eq=False)
class Asked:
    """A request that waits."""

    images: int
    settings: str = "default"
    accepted: float = 0.0


def test_the_oldest_comes_first_with_those_that_fit_it() -> None:
    waiting = [Asked(2, "plain"), Asked(1), Asked(3, "plain"), Asked(1, "plain"), Asked(9)]
    calls, left = [], waiting
    while left:
        chosen = Policy(max_batch=4).choose(left, running=0)
        calls.append([waiting.index(each) for each in chosen])
        left = [each for each in left if each not in chosen]
    assert calls == [[0, 3], [1], [2], [4]]


def test_lanes_share_what_is_asked_for() -> None:
    waiting = [Asked(1) for _ in range(24)]
    assert [len(Policy(lanes=3).choose(waiting, running)) for running in (0, 3, 24)] == [8, 9, 16]
    assert len(Policy(lanes=1, max_batch=16).choose(waiting, running=0)) == 16
    assert len(Policy(lanes=2).choose([Asked(9), *waiting], running=0)) == 9  # 33 images: 17 of them


def test_who_leaves_disturbs_nobody(held: Held, one_lane: Server, pipeline: Pipeline) -> None:
    # The one that leaves has waited, or runs in the same call.
    seeds = [{"labels": [seed % 5], "seed": seed, "low_steps": 4, "high_steps": 16} for seed in range(6)]
    sent = held.start(*seeds)
    sent[0].close()
    one_lane.wait_for("himar_queue_length", 5)
    held.release()
    one_lane.wait_for("himar_queue_length", 0)
    sent[3].close()
    for place in (1, 2, 4, 5):
        assert_same(Server.reply(sent[place]).json, pipeline.generate(**seeds[place]))
    one_lane.wait_for("himar_lanes_busy", 0)
    assert held.grown(CALLS, REQUESTS) == [1, 5]


def test_a_call_ends_when_all_of_it_have_left(start_server: Any, bundle_path: Path, slow: Any) -> None:
    server = start_server(bundle_path)
    hold = Held(server, slow)
    sent = hold.start(*[{**slow, "labels": [1], "seed": seed} for seed in range(3)])
    hold.release()
    server.wait_for("himar_queue_length", 0)
    assert hold.grown(CALLS, REQUESTS) == [1, 3]
    for connection in sent:
        connection.close()
    server.wait_for("himar_lanes_busy", 0)
    server.wait_for("himar_requests_total{code=499}", 4)
    assert server.metrics()["himar_images_total"] == 0
    assert server.end() == 0


def test_the_time_limit_of_one_is_not_that_of_others(start_server: Any, bundle_path: Path, slow: Any) -> None:
    server = start_server(bundle_path, "--timeout", "4", "--max-images", "1024")
    hold = Held(server, {**slow, "labels": [1] * 1024})
    time.sleep(2)
    sent = hold.start({"labels": [1], **QUICK}, {"labels": [2], **QUICK})
    # The long request holds the lane until its own time is up; it was there first.
    assert {reply.status for reply in replies(sent)} == {200}
    assert server.metrics()["himar_cancelled_total{reason=timeout}"] == 1
    assert server.end() == 0


def test_a_failure_is_that_of_its_request_alone(
    start_server: Any, make_bundle: Any, slow: Any, pipeline: Pipeline
) -> None:
    # What is not finite is the embedding of class 0.
    server = start_server(make_bundle(poison={"transformer_low": float("nan")}))
    hold = Held(server, slow)
    requests = [{"labels": [label], "seed": label, **QUICK} for label in (1, 0, 2)]
    sent = hold.start(*requests)
    hold.release()
    first, failed, last = replies(sent)
    assert (failed.status, "transformer_low returned values" in failed.json["error"]) == (500, True)
    for reply, values in ((first, requests[0]), (last, requests[2])):
        assert_same({**reply.json, "images": _of_bundle(reply, pipeline)}, pipeline.generate(**values))
    assert "a call with 3 requests failed" in server.log.read_text()
    assert server.end() == 0


def _of_bundle(reply: Reply, pipeline: Pipeline) -> Any:
    """The images with recipes that name another bundle of the same weights, but for class 0."""
    return [{**image, "recipe": {**image["recipe"], "bundle": pipeline.bundle.id}} for image in reply.json["images"]]


def test_a_limit_of_images_and_none_at_all(start_server: Any, bundle_path: Path, slow: Any) -> None:
    counts = {}
    for most in (1, 4):
        server = start_server(bundle_path, "--max-batch", str(most))
        hold = Held(server, slow)
        sent = hold.start(*[{"labels": [1] * images, **QUICK} for images in (2, 1, 3, 1)])
        hold.release()
        assert {reply.status for reply in replies(sent)} == {200}
        counts[most] = hold.grown(CALLS, REQUESTS, IMAGES)
        assert server.end() == 0
    assert counts == {1: [4, 4, 7], 4: [2, 4, 7]}  # 2 + 1 + 1, for which one waits, and 3


def test_a_single_client_waits_for_nobody(start_server: Any, bundle_path: Path) -> None:
    server = start_server(bundle_path, "--queue-delay", "5000")
    for seed in range(2):
        assert server.images({"labels": [1], "seed": seed, **QUICK}).json["seconds"]["queued"] < 4
    assert server.end() == 0


def test_after_a_call_of_several_all_of_them_are_waited_for_a_while(
    start_server: Any, bundle_path: Path, slow: Any
) -> None:
    server = start_server(bundle_path, "--queue-delay", "3000")
    hold = Held(server, slow)
    sent = hold.start(*[{"labels": [1], **QUICK}] * 3)
    hold.release()
    replies(sent)

    def queued(clients: int) -> float:
        waiting = [server.start({"labels": [1], **QUICK}) for _ in range(clients)]
        return max(Server.reply(connection).json["seconds"]["queued"] for connection in waiting)

    assert queued(3) < 2  # as many as there were
    assert queued(2) > 2
    assert queued(2) < 2
    assert hold.grown(CALLS, REQUESTS) == [4, 10]
    assert server.end() == 0


def test_a_batch_beyond_the_engines_is_refused(command: list[str], bundle_path: Path) -> None:
    done = subprocess.run(
        [*command, str(bundle_path), "--port", "0", "--max-batch", "65"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    most = Pipeline.load(bundle_path, threads=1).bundle.manifest.max_batch
    said = f"batches of 65 images are asked for, but this bundle's engines take at most {most}; give --max-batch {most}"
    assert said in " ".join(done.stderr.split())


def test_texts_join(start_server: Any, tiny_text_path: Path, slow: Any) -> None:
    server = start_server(tiny_text_path)
    long = {key: value for key, value in slow.items() if key != "labels"}
    hold = Held(server, {**long, "prompts": ["two red"] * 8})
    requests = [
        {"prompts": ["red", "two two two two red"], "seed": 3, **QUICK},
        {"prompts": ["two two two two two red", "two"], "seed": 4, **QUICK},
    ]
    sent = hold.start(*requests)
    hold.release()
    library = Pipeline.load(tiny_text_path, threads=1)
    for reply, values in zip(replies(sent), requests, strict=True):
        wanted = library.generate(**values)
        assert_same(reply.json, wanted)
        assert reply.json["truncated"] == list(wanted.truncated)
    assert hold.grown(CALLS, REQUESTS) == [1, 2]
    assert server.end() == 0


def test_hmar_joins(start_server: Any, tiny_hmar_path: Path) -> None:
    """A call takes milliseconds, so they join by waiting for each other after a call of several."""
    server = start_server(tiny_hmar_path, "--queue-delay", "300")
    library = Pipeline.load(tiny_hmar_path, threads=1)
    requests = [{"labels": [1, 0][: 1 + seed % 2], "seed": seed} for seed in range(12)]
    for _ in range(20):
        sent = [server.start(values) for values in requests]
        for reply, values in zip(replies(sent), requests, strict=True):
            assert_same(reply.json, library.generate(**values))
        found = server.metrics()
        if found[CALLS] < found[REQUESTS]:
            break
    assert found[CALLS] < found[REQUESTS]
    assert server.end() == 0
