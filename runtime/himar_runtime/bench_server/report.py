"""Summarises what came of a load: values for JSON, a table for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .load import Load, Measured

_PERCENTILES = (50, 90, 95, 99)
_REASONS = 5


def summarise(load: Load, measured: Measured) -> dict[str, Any]:
    """Return everything as plain values; seconds are seconds, and of latencies those of requests that did not fail.

    "stages" holds the mean seconds of the server's stages in those requests, and "rest" what the server did not count:
    connections, HTTP, and the client itself. "calls" says how many requests and images calls of the engines had.
    """
    good = [answer for answer in measured.answers if answer.reason is None]
    images = sum(answer.images for answer in good)
    failed = [answer for answer in measured.answers if answer.reason is not None]
    firsts = [answer.first for answer in good if answer.first is not None]
    return {
        "url": load.url,
        "model": measured.model,
        "asked": {
            "requests": load.requests, "images": load.wanted.images, "api": load.wanted.api,
            "sampling": load.wanted.sampling, "partial_images": load.wanted.partial_images, **load.wanted.changes,
            **({"concurrency": load.concurrency} if load.rate is None else {"rate": load.rate}),
        },
        "seconds": measured.seconds,
        "requests_per_second": len(good) / measured.seconds,
        "images_per_second": images / measured.seconds,
        "latency": _percentiles([answer.seconds for answer in good]),
        "first_event": _percentiles(firsts),
        "stages": _stages(good),
        "calls": _calls(measured),
        "statuses": dict(Counter(str(answer.status) for answer in measured.answers).most_common()),
        "failures": len(failed),
        "reasons": dict(Counter(str(answer.reason) for answer in failed).most_common(_REASONS)),
    }  # fmt: skip


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return mean, percentiles and maximum; of nothing nothing."""
    if not seconds:
        return {}
    found = {f"p{percent}": float(np.percentile(seconds, percent)) for percent in _PERCENTILES}
    return {"mean": float(np.mean(seconds)), **found, "max": max(seconds)}


def _stages(good: Sequence[Any]) -> dict[str, float]:
    timed = [answer for answer in good if answer.stages]
    if not timed:
        return {}
    names = dict.fromkeys(name for answer in timed for name in answer.stages)
    mean = {name: float(np.mean([answer.stages.get(name, 0.0) for answer in timed])) for name in names}
    return {**mean, "rest": float(np.mean([answer.seconds for answer in timed])) - sum(mean.values())}


def _calls(measured: Measured) -> dict[str, float]:
    if measured.calls is None or measured.calls[0] == 0:
        return {}
    count, requests, images = measured.calls
    return {"count": count, "requests": requests / count, "images": images / count}


def print_summary(summary: dict[str, Any]) -> None:
    """Print a summary as tables."""
    console = Console()
    asked = summary["asked"]
    how = f"{asked['concurrency']} clients" if "concurrency" in asked else f"{asked['rate']:g} requests a second"
    table = Table(title=escape(f"{asked['requests']} requests to {summary['url']}, {how}"), title_justify="left")
    for heading in ("", "mean", *(f"p{percent}" for percent in _PERCENTILES), "max"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, title in (("latency", "answer"), ("first_event", "first event")):
        if summary[name]:
            table.add_row(title, *(_seconds(each) for each in summary[name].values()))
    console.print(table)
    rates = f"{summary['images_per_second']:.4g} images and {summary['requests_per_second']:.4g} requests a second"
    console.print(f"{rates}, over {summary['seconds']:.1f} s", highlight=False)
    if summary["calls"]:
        calls = summary["calls"]
        console.print(
            f"{calls['count']:.0f} calls of the engines, {calls['requests']:.1f} requests and {calls['images']:.1f} "
            f"images in each on average",
            highlight=False,
        )
    if summary["stages"]:
        whole = sum(summary["stages"].values())
        shares = (f"{name} {_seconds(each)} ({each / whole:.0%})" for name, each in summary["stages"].items())
        console.print(f"a request's time: {', '.join(shares)}", highlight=False)
    for reason, count in summary["reasons"].items():
        console.print(f"[red]{count} failed:[/red] {escape(reason)}", highlight=False)
    if summary["failures"]:
        console.print(f"[red]{summary['failures']} of {asked['requests']} requests failed.[/red]", highlight=False)


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if abs(seconds) < 1 else f"{seconds:.2f} s"
