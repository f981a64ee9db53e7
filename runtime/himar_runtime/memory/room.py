"""Refuses to load what clearly has no room, in a sentence that says what is needed and what to do."""

from __future__ import annotations

import logging
from pathlib import Path

from himar_kernels import EngineError

from ..bundle.bundle import Bundle
from ..engines.engine import Device
from ..engines.ort.packed import keeps_packed
from .available import VARIABLE, Available, available_memory
from .prediction import Prediction, predict

log = logging.getLogger(__name__)

CLEARLY = 1.25
"""How many times what is available must be needed before it is refused: predictions are within a sixth or so."""


def require_room(
    bundle: Bundle, device: Device, *, images: int, lanes: int = 1, backend: str | None = None, root: Path = Path("/")
) -> None:
    """Raise EngineError unless there is room for a bundle's engines and for lanes that run so many images at once.

    Where it is tight, and where there is room for fewer images alone than one run may have, a warning says so. What
    is not known, of the bundle or of the machine, refuses nothing.

    Raises InputError where an environment variable that asks for something else is wrong.
    """
    available = available_memory(device, root)
    if available is None:
        return
    kind = device.kind
    needed = predict(bundle.manifest, images, lanes, kind, backend or "")
    mapped = kind == "cpu" and keeps_packed()  # what is mapped from a file can be given back and read again
    _judge(str(bundle.root), needed, 0 if mapped else needed.loaded, needed.runs, available, kind)
    largest = predict(bundle.manifest, bundle.manifest.max_batch, lanes, kind, backend or "")
    most = largest.runs + (0 if mapped else largest.loaded)
    if images < largest.images and available.bytes < most:
        log.warning(
            "%s needs about %s for runs of %d images, and %s has %s left: generate fewer at once",
            bundle.root, gigabytes(most), largest.images, available.of, gigabytes(available.bytes),
        )  # fmt: skip


def require_room_for_lane(bundle: Bundle, device: Device, root: Path = Path("/")) -> None:
    """Raise EngineError unless there is room for the runs of one more lane, of an image at once: it shares weights."""
    available = available_memory(device, root)
    if available is not None:
        needed = predict(bundle.manifest, 1, 1, device.kind)
        _judge(f"another lane of {bundle.root}", needed, 0, needed.runs, available, device.kind)


def _judge(what: str, needed: Prediction, loaded: int, runs: int, available: Available, kind: str) -> None:
    total = loaded + runs
    if total <= 0.9 * available.bytes:
        return
    parts = f"weights {gigabytes(loaded)}, " if loaded else ""
    lanes = f" in {needed.lanes} lanes" if needed.lanes > 1 else ""
    count = f"{needed.images} images" if needed.images > 1 else "1 image"
    text = (
        f"{what} needs about {gigabytes(total)} of memory ({parts}runs of {count}{lanes} {gigabytes(runs)}), and "
        f"{available.of} has {gigabytes(available.bytes)} left"
    )
    if total < CLEARLY * available.bytes:
        log.warning("%s: it may just fit", text)
        return
    ways = [
        *(["a smaller --max-batch"] if needed.images > 1 else []),
        *(["fewer lanes"] if needed.lanes > 1 else []),
        f"a bundle built with --{'fp16' if kind == 'cuda' else 'int8'}" if loaded else "fewer lanes",
    ]
    raise EngineError(f"{text}; use {', or '.join(ways)}, or set {VARIABLE}=none to try all the same.")


def gigabytes(size: int) -> str:
    """Return a size in GB or MB for a sentence."""
    return f"{size / 1e9:.2f} GB" if size >= 10**8 else f"{size / 1e6:.1f} MB"
