"""Counts what Prometheus scrapes: requests, times and the state of the queues, in a registry of the service's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CancelReason = Literal["disconnect", "timeout", "drain"]

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
CLIENT_GONE = 499
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_LONG_SECONDS = (120, 300, 600, 1800, 3600, 7200, 21_600, 86_400, 1_000_000)


def edges(timeout: float) -> tuple[float, ...]:
    """Return the histograms' edges in seconds: up to a minute, and on to the first that a timeout does not exceed."""
    longer = sum(edge < timeout for edge in (_SECONDS[-1], *_LONG_SECONDS))
    return (*_SECONDS, *_LONG_SECONDS[:longer])


class Metrics:
    """The service's instruments. Safe to use from every thread."""

    def __init__(self, version: str, bundle: str, device: str, timeout: float) -> None:
        """timeout: seconds that a request may take."""
        seconds = edges(timeout)
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "himar_requests_total", "Requests for images by HTTP status; 499: the client disconnected.", ["code"],
            registry=registry,
        )  # fmt: skip
        self.images = Counter("himar_images_total", "Images answered.", registry=registry)
        self.request_seconds = Histogram(
            "himar_request_seconds", "From acceptance to answer.", buckets=seconds, registry=registry
        )
        self.queue_seconds = Histogram(
            "himar_queue_seconds", "From acceptance until a lane takes the request.", buckets=seconds,
            registry=registry,
        )  # fmt: skip
        self.stage_seconds = Histogram(
            "himar_stage_seconds", "Each stage of a request that was answered with images.", ["stage"], buckets=seconds,
            registry=registry,
        )  # fmt: skip
        self.batch_images = Histogram(
            "himar_batch_images", "Images of one call of the engines.", buckets=_COUNTS, registry=registry
        )
        self.batch_requests = Histogram(
            "himar_batch_requests", "Requests that ran together in one call.", buckets=_COUNTS, registry=registry
        )
        self.cancelled = Counter(
            "himar_cancelled_total", "Accepted requests that were dropped or stopped.", ["reason"], registry=registry
        )
        for reason in get_args(CancelReason):
            self.cancelled.labels(reason)
        build = Gauge(
            "himar_build_info", "Always 1; the labels say what runs.", ["version", "bundle", "device"],
            registry=registry,
        )  # fmt: skip
        build.labels(version, bundle, device).set(1)

    def watch_lanes(self, waiting: Callable[[], int], busy: Callable[[], int]) -> None:
        """Report these numbers of waiting requests and of lanes at work; call once."""
        Gauge("himar_queue_length", "Waiting requests.", registry=self._registry).set_function(waiting)
        Gauge("himar_lanes_busy", "Lanes at work.", registry=self._registry).set_function(busy)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)
