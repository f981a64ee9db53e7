"""Queues, clients that go away, requests that take too long, engines that fail: nobody else's request suffers."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest

from himar_kernels.shared.cpu_threads import allowed_cpus
from himar_runtime.service.metrics import edges

QUICK = {"labels": [1], "low_steps": 1, "high_steps": 1, "low_diffusion_steps": 2, "high_diffusion_steps": 2}


def test_metrics_count_what_happened(server: Any, pipeline: Any) -> None:
    reply = server.ask("GET", "/metrics")
    assert (reply.status, reply.headers["Content-Type"].split(";")[0]) == (200, "text/plain")
    before = server.metrics()
    assert server.images({**QUICK, "labels": [1, 2, 3]}).status == 200
    assert server.images(b"{").status == 400
    assert server.ask("GET", "/v1/images").status == 405
    after = server.metrics()

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    codes = ("200", "400", "405")
    assert [grown(f"himar_requests_total{{code={code}}}") for code in codes] == [1, 1, 1]
    assert grown("himar_images_total") == 3
    for histogram in ("himar_request_seconds", "himar_queue_seconds"):
        assert grown(f"{histogram}_count") == grown(f"{histogram}_bucket{{le=+Inf}}") == 1
        assert grown(f"{histogram}_sum") > 0
        bounds = [name for name in after if name.startswith(f"{histogram}_bucket")]
        assert len(bounds) == 14
        counts = [after[name] for name in sorted(bounds, key=lambda name: float(name[name.index("=") + 1 : -1]))]
        assert counts == sorted(counts)
    for histogram, counted in (("himar_batch_images", 3), ("himar_batch_requests", 1)):
        assert (grown(f"{histogram}_count"), grown(f"{histogram}_sum")) == (1, counted)
        edges = [name[name.index("=") + 1 : -1] for name in after if name.startswith(f"{histogram}_bucket")]
        assert sorted(map(float, edges)) == [1, 2, 4, 8, 16, 32, 64, 128, 256, float("inf")]
    assert after["himar_queue_length"] == after["himar_lanes_busy"] == 0
    assert all(f"himar_cancelled_total{{reason={why}}}" in after for why in ("disconnect", "timeout", "drain"))
    (build,) = (name for name in after if name.startswith("himar_build_info"))
    assert f"bundle={pipeline.bundle.id}" in build and "device=cpu" in build and after[build] == 1
    names = {name.partition("{")[0] for name in after if name.startswith("himar_")}
    assert names == {
        "himar_requests_total", "himar_images_total", "himar_request_seconds_bucket", "himar_request_seconds_count",
        "himar_request_seconds_sum", "himar_queue_seconds_bucket", "himar_queue_seconds_count",
        "himar_queue_seconds_sum", "himar_queue_length", "himar_lanes_busy", "himar_cancelled_total",
        "himar_build_info",
        *(
            f"himar_{name}_{part}"
            for name in ("stage_seconds", "batch_images", "batch_requests")
            for part in ("bucket", "count", "sum")
        ),
    }  # fmt: skip


@pytest.mark.parametrize(("timeout", "last"), [("0.5", 60), ("600", 600), ("3000.5", 3600)])
def test_histograms_reach_the_timeout(start_server: Any, bundle_path: Any, timeout: str, last: float) -> None:
    server = start_server(bundle_path, "--timeout", timeout)
    assert server.images(QUICK).status == 200
    metrics = server.metrics()
    for histogram in ("himar_request_seconds", "himar_queue_seconds"):
        buckets = {
            float(name.partition("le=")[2][:-1]): count
            for name, count in metrics.items()
            if name.startswith(f"{histogram}_bucket")
        }
        assert list(buckets) == sorted(buckets) and list(buckets)[-2:] == [last, math.inf]
        assert buckets[last] == metrics[f"{histogram}_count"] == 1
    assert server.end() == 0


def test_edges_end_at_the_first_that_a_timeout_does_not_exceed() -> None:
    found = [edges(timeout)[-1] for timeout in (0.5, 60, 61, 120, 600, 3000.5, 1e6)]
    assert found == [60, 60, 120, 120, 600, 3600, 1e6]


def threads_of(server: Any) -> int:
    assert server.images({**QUICK, "labels": [1, 2]}).status == 200
    count = len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))
    assert server.end() == 0
    return count


def test_the_default_of_threads_follows_omp_num_threads(
    start_server: Any, bundle_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    one, default = (threads_of(start_server(bundle_path, "--threads", threads)) for threads in ("1", "0"))
    assert default == one
    if allowed_cpus() > 1:
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert threads_of(start_server(bundle_path, "--threads", "0")) > one


def test_full_queues_refuse_and_clients_that_go_away_free_them(start_server: Any, bundle_path: Any, slow: Any) -> None:
    server = start_server(bundle_path, "--lanes", "1", "--queue", "1")
    running = server.start(slow)
    server.wait_for("himar_lanes_busy", 1)
    queued = server.start(slow)
    server.wait_for("himar_queue_length", 1)
    refused = server.images(QUICK)
    assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
    assert refused.json["error"].endswith(".")
    assert server.ask("GET", "/healthz").json == {"status": "ok"}

    queued.close()
    server.wait_for("himar_queue_length", 0)
    assert server.metrics()["himar_lanes_busy"] == 1
    waits = server.start({**QUICK, "seed": 5})
    running.close()
    reply = server.reply(waits)
    assert reply.status == 200
    assert reply.json["seed"] == 5
    server.wait_for("himar_cancelled_total{reason=disconnect}", 2)
    server.wait_for("himar_requests_total{code=499}", 2)
    server.wait_for("himar_lanes_busy", 0)
    assert server.metrics()["himar_images_total"] == 1
    assert server.end() == 0


def test_a_request_that_takes_too_long_is_cancelled(start_server: Any, bundle_path: Any, slow: Any) -> None:
    server = start_server(bundle_path, "--timeout", "0.5")
    start = time.monotonic()
    reply = server.images(slow)
    assert reply.status == 504
    assert time.monotonic() - start >= 0.5
    assert "0.5 s" in reply.json["error"] and reply.json["error"].endswith(".")
    server.wait_for("himar_lanes_busy", 0)
    metrics = server.metrics()
    assert metrics["himar_cancelled_total{reason=timeout}"] == metrics["himar_requests_total{code=504}"] == 1
    assert metrics["himar_images_total"] == 0
    assert server.images(QUICK).status == 200

    # The same holds for a body that never comes.
    head = b"POST /v1/images HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    assert server.raw(head).startswith(b"HTTP/1.1 400 ")
    assert server.end() == 0


def test_an_engine_that_fails_is_a_500_and_the_lane_goes_on(start_server: Any, make_bundle: Any) -> None:
    # What is not finite is the embedding of class 0.
    server = start_server(make_bundle(poison={"transformer_low": float("nan")}))
    for _ in range(2):
        reply = server.images({**QUICK, "labels": [0]})
        assert reply.status == 500
        assert "transformer_low returned values" in reply.json["error"] and "not finite" in reply.json["error"]
        assert server.images({**QUICK, "labels": [1]}).status == 200
    assert server.end() == 0
