"""Loads what a piece measures: a bundle's engines and the eager model, as the piece's arguments name them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.gpu.process import Figures
from himar_export.bench.eager import plain_float32
from himar_export.bench.workload import Sources, Workload, load, require_batch
from himar_runtime import Bundle


@contextmanager
def opened(figures: Figures, sources: Mapping[str, Any], batch: int) -> Iterator[tuple[Workload, int]]:
    """Load both sides; yield them and the number of CPU threads.

    sources: bundle, checkpoint, vae (or None) and device; by choice sampling, a named setting, and changes to it.
    Raises InputError for a batch beyond the bundle's, and where the piece has figures of another bundle.
    """
    bundle = Bundle.open(sources["bundle"])
    require_batch(bundle, batch)
    figures.keep_same("bundle", bundle.id)
    with plain_float32(None) as threads:
        yield load(sources_of(sources), threads), threads


def sources_of(given: Mapping[str, Any]) -> Sources:
    """Return what a piece's arguments name."""
    vae = given["vae"]
    return Sources(
        bundle=Path(given["bundle"]),
        checkpoint=Path(given["checkpoint"]),
        config=None,
        vae=None if vae is None else Path(vae),
        weights=None,
        device=given["device"],
        sampling_name=given.get("sampling"),
        guidance=None,
        changes=given.get("changes", {}),
    )
