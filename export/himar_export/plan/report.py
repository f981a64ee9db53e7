"""Prints a capacity plan: a table and sentences for people, JSON for machines."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from .search import Plan, Wanted

_PERCENTILES = (50, 90, 95, 99)
_MONTH = 30 * 86_400
SERVED_IMAGES, SERVED_SECONDS, MOST_SECONDS = 64, 60, 1e6
"""--max-images and --timeout of himar-serve where they are not given, and the longest --timeout."""


def plan_values(plan: Plan, wanted: Wanted, source: str, price: float | None) -> dict[str, Any]:
    """Return everything as plain values: seconds, images and requests per second, money per million images.

    Args:
        source: where the times of calls come from.
        price: of a device for an hour.
    """
    simulated, images = plan.simulated, wanted.rate * wanted.images
    hours = plan.devices / 3600 / images * 1e6
    return {
        "wanted": {"requests_per_second": wanted.rate, "images": wanted.images, "p99": wanted.p99},
        "times": {
            "source": source,
            "seconds": {str(size): seconds for size, seconds in sorted(plan.times.seconds.items())},
            "overhead": wanted.overhead,
        },
        "devices": plan.devices,
        "lanes": plan.policy.lanes,
        "max_batch": plan.policy.max_batch,
        "queue": plan.queue,
        "queue_delay": plan.policy.queue_delay,
        "latency": {f"p{percent}": simulated.percentile(percent) for percent in _PERCENTILES},
        "queued": float(simulated.queued.mean()),
        "images_per_call": simulated.images_per_call,
        "busy": simulated.busy,
        "device": {
            "requests_per_second": wanted.rate / plan.devices,
            "most_requests_per_second": plan.most_rate,
            "most_images_per_second": plan.times.most_per_second(plan.policy.max_batch),
        },
        "images_per_month": images * _MONTH,
        "device_hours_per_million_images": hours,
        "cost_per_million_images": None if price is None else hours * price,
    }


def print_plan(values: dict[str, Any], bundle: str) -> None:
    """Print the values of a plan for the bundle or configuration of that name."""
    console = Console()
    wanted, device, latency = values["wanted"], values["device"], values["latency"]
    what = "an image" if wanted["images"] == 1 else f"{wanted['images']} images"
    title = f"{wanted['requests_per_second']:g} requests a second, {what} each, 99 of 100 within {_time(wanted['p99'])}"
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    rows = [
        ("devices", f"{values['devices']}"),
        ("lanes of each", f"{values['lanes']}"),
        ("p50, p90, p95, p99", ", ".join(_time(each) for each in latency.values())),
        ("of it in the queue, mean", _time(values["queued"])),
        ("images of a call, mean", f"{values['images_per_call']:.1f} of {values['max_batch']}"),
        ("lanes at work", f"{values['busy']:.0%}"),
        ("requests a second of a device", f"{device['requests_per_second']:.3g}"),
        ("at most, in time", f"{device['most_requests_per_second']:.3g}"),
        ("images a month", f"{values['images_per_month']:.3g}"),
        ("device hours per million images", f"{values['device_hours_per_million_images']:.3g}"),
    ]
    if values["cost_per_million_images"] is not None:
        rows.append(("cost per million images", f"{values['cost_per_million_images']:.4g}"))
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"times of calls: {values['times']['source']}", highlight=False, markup=False, soft_wrap=True)
    options = f"--lanes {values['lanes']} --max-batch {values['max_batch']} --queue {values['queue']}"
    delay = f" --queue-delay {1000 * values['queue_delay']:g}"
    limits = f" --max-images {wanted['images']}" if wanted["images"] > SERVED_IMAGES else ""
    limits += f" --timeout {min(2 * wanted['p99'], MOST_SECONDS):g}" if wanted["p99"] > SERVED_SECONDS else ""
    console.print(
        f"serve: himar-serve {bundle} {options}{delay}{limits}", highlight=False, markup=False, soft_wrap=True
    )


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
