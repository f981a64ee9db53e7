"""Judges the project's aims from a GPU report: met, missed or not measured, with the figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from himar_export.bench.measurement import ENGINES

MODEL, BATCH = "himar-b", 128
SECONDS_PER_IMAGE = 0.08
"""Of Hi-MAR-B at batch 128 in half precision on an H100; the paper's eager code takes 0.285."""
MATRIX_SHARE = 0.6
"""Of the matrix peak that was measured on the device, in a call of the DiT head."""


def aims(content: Mapping[str, Any], model: str, precision: str, backends: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return each aim for each backend: aim, value (None where it was not measured, with the reason), and whether met.

    content: the report's sections. The aims are of one model, batch and half precision; other runs measure none.
    """
    found: list[dict[str, Any]] = []
    for backend in backends:
        measured, reason = _section(content, f"{backend} at batch {BATCH}")
        if (model, precision) == (MODEL, "fp32") or model != MODEL:
            measured, reason = None, f"the aim is of {MODEL} in half precision"
        seconds = None if measured is None else seconds_per_image(measured)
        share = None if measured is None else matrix_share(measured, "dit_head")
        missing = reason or "its outputs differ from the eager model's, so it has no latency"
        found += [
            _aim(backend, f"at most {SECONDS_PER_IMAGE} s per image", seconds, missing,
                 seconds is not None and seconds <= SECONDS_PER_IMAGE),
            _aim(backend, f"at least {MATRIX_SHARE:.0%} of the matrix peak in the DiT head", share, missing,
                 share is not None and share >= MATRIX_SHARE),
        ]  # fmt: skip
    return found


def seconds_per_image(measured: Mapping[str, Any]) -> float | None:
    """Return the engines' seconds per image of a section's one generation; None where they were not timed."""
    (generation,) = measured["generations"]
    value: float | None = generation["seconds_per_image"].get(ENGINES)
    return value


def matrix_share(measured: Mapping[str, Any], component: str) -> float | None:
    """Return the operations per second that the engine of a component reached in a call, by the measured peak."""
    for each in measured["components"]:
        if each["name"] == component and each["reached"] is not None:
            return float(each["reached"]["flops_per_second"] / measured["peaks"]["flops_per_second"])
    return None


def _section(content: Mapping[str, Any], name: str) -> tuple[Mapping[str, Any] | None, str | None]:
    section = content.get(name)
    if section is None:
        return None, "it was not asked for, or its bundle failed"
    reason = section.get("error") or section.get("skipped")
    return (None, reason) if reason else (section, None)


def _aim(backend: str, aim: str, value: float | None, reason: str, met: bool) -> dict[str, Any]:
    verdict = "not measured" if value is None else "met" if met else "missed"
    return {"backend": backend, "aim": aim, "value": value, "verdict": verdict,
            **({"reason": reason} if value is None else {})}  # fmt: skip
