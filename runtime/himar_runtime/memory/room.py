"""Refuses to load what clearly has no room, in a sentence that says what is needed and what to do."""

from __future__ import annotations

import bisect
import logging
from dataclasses import dataclass, replace
from pathlib import Path

from himar_kernels import EngineError

from ..bundle.bundle import Bundle
from ..engines.engine import Device
from ..engines.ort.packed import keeps_packed
from .available import VARIABLE, Available, available_memory
from .prediction import predict

log = logging.getLogger(__name__)

EASILY = 0.9
"""Of what is available, what is needed without being tight."""

CLEARLY = 1.25
"""How many times what is available must be needed before it is refused: predictions are within a sixth or so."""


def require_room(
    bundle: Bundle,
    device: Device,
    *,
    images: int | None = None,
    lanes: int = 1,
    backend: str | None = None,
    root: Path = Path("/"),
) -> None:
    """Raise EngineError unless there is room for a bundle's engines and for lanes that run so many images at once.

    images: None where nobody says how many there will be: there must be room for one, and where there is none for the
    bundle's largest batch, a warning says so. One says also where it is tight. What is not known, of the bundle or of
    the machine, refuses nothing.

    Raises InputError where an environment variable that asks for something else is wrong.
    """
    available = available_memory(device, root)
    if available is None:
        return
    needs = _Needs(bundle, device, backend)
    _judge(str(bundle.root), needs.of(images or 1, lanes), available)
    largest = needs.of(bundle.manifest.max_batch, lanes)
    if images is None and available.bytes < largest.total:
        log.warning(
            "%s needs about %s for runs of %d images, and %s has %s left: generate fewer at once",
            bundle.root, gigabytes(largest.total), largest.images, available.of, gigabytes(available.bytes),
        )  # fmt: skip


def require_room_for_lane(bundle: Bundle, device: Device, root: Path = Path("/")) -> None:
    """Raise EngineError unless there is room for the runs of one more lane, of an image at once: it shares weights."""
    available = available_memory(device, root)
    if available is not None:
        needs = _Needs(bundle, device, None)
        one = needs.of(1, 1)
        more = replace(one, loaded=0, runs=needs.of(1, 2).runs - one.runs)
        _judge(f"another lane of {bundle.root}", more, available)


def fitting_batch(
    bundle: Bundle, device: Device, *, lanes: int, backend: str | None = None, root: Path = Path("/")
) -> int:
    """Return the largest batch, at most the bundle's, that lanes have room to run without being tight; at least 1.

    Where it is smaller than the bundle's, a warning says so. Raises InputError as require_room.
    """
    most, available = bundle.manifest.max_batch, available_memory(device, root)
    if available is None:
        return most
    needs, easily = _Needs(bundle, device, backend), EASILY * available.bytes
    found = max(1, bisect.bisect(range(1, most + 1), easily, key=lambda images: needs.of(images, lanes).total))
    if found < most:
        log.warning(
            "%s runs in batches of at most %d, not of %d: those need about %s of memory%s, and %s has %s left",
            bundle.root, found, most, gigabytes(needs.of(most, lanes).total), _in_lanes(lanes), available.of,
            gigabytes(available.bytes),
        )  # fmt: skip
    return found


@dataclass(frozen=True)
class _Needed:
    """Bytes that lanes need which run so many images at once: `loaded` shared by them, and `runs` of all of them.

    smaller: the option of a build that makes a smaller bundle for that kind of device; "" of one that is so already.
    """

    smaller: str
    images: int
    lanes: int
    loaded: int
    runs: int

    @property
    def total(self) -> int:
        return self.loaded + self.runs


class _Needs:
    """What lanes of a bundle need on a device."""

    def __init__(self, bundle: Bundle, device: Device, backend: str | None) -> None:
        self._manifest, self._kind, self._backend = bundle.manifest, device.kind, backend or ""
        # What is mapped from a file can be given back and read again.
        self._mapped = device.kind == "cpu" and keeps_packed()
        precisions = {spec.precision for spec in bundle.manifest.components.values()}
        option, have = ("--fp16", {"fp16", "bf16", "fp8"}) if device.kind == "cuda" else ("--int8", {"int8"})
        self._smaller = "" if precisions & have else option

    def of(self, images: int, lanes: int) -> _Needed:
        found = predict(self._manifest, images, lanes, self._kind, self._backend)
        return _Needed(self._smaller, found.images, lanes, 0 if self._mapped else found.loaded, found.runs)


def _judge(what: str, needed: _Needed, available: Available) -> None:
    if needed.total <= EASILY * available.bytes:
        return
    parts = f"weights {gigabytes(needed.loaded)}, " if needed.loaded else ""
    count = f"{needed.images} images" if needed.images > 1 else "1 image"
    text = (
        f"{what} needs about {gigabytes(needed.total)} of memory ({parts}runs of {count}{_in_lanes(needed.lanes)} "
        f"{gigabytes(needed.runs)}), and {available.of} has {gigabytes(available.bytes)} left"
    )
    if needed.total < CLEARLY * available.bytes:
        log.warning("%s: it may just fit", text)
        return
    ways = [
        *(["a smaller --max-batch"] if needed.images > 1 else []),
        *(["fewer lanes"] if needed.lanes > 1 else []),
        *([f"a bundle built with {needed.smaller}"] if needed.loaded and needed.smaller else []),
        *(["fewer lanes"] if not needed.loaded and needed.lanes == 1 else []),
    ]
    advice = f"use {', or '.join(ways)}" if ways else "free some"
    raise EngineError(f"{text}; {advice}, or set {VARIABLE}=none to try all the same.")


def _in_lanes(lanes: int) -> str:
    return f" in {lanes} lanes" if lanes > 1 else ""


def gigabytes(size: int) -> str:
    """Return a size in GB or MB for a sentence."""
    return f"{size / 1e9:.2f} GB" if size >= 10**8 else f"{size / 1e6:.1f} MB"
