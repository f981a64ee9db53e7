"""What `himar-export inspect` says about the TensorRT engines of a bundle: whose they are, and what they run in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from himar_runtime import Bundle
from himar_runtime.tensorrt_library import BUILDS

from .report import readable

TENSORRT_BACKENDS = tuple(BUILDS)
_KINDS = ("matmul", "convolution", "attention", "normalization")


def built_for(backend: Mapping[str, Any]) -> str:
    """Say in words which GPUs and library versions a manifest's `backend` entry was built for."""
    if backend.get("least_compute_capability"):
        gpus = f"GPUs of compute capability {backend['least_compute_capability']} and later"
    elif backend.get("compute_capabilities"):
        gpus = f"GPUs of compute capability {', '.join(backend['compute_capabilities'])}"
    elif backend.get("compute_capability"):
        gpus = f"GPUs of compute capability {backend['compute_capability']} ({backend.get('gpu') or 'unnamed'})"
    else:
        gpus = "the GPU generations that its builder covers without being asked"
    library = "this version and later ones" if backend.get("version_compatible") else "this version alone"
    return f"{gpus}; {library}{'; weights can be refitted' if backend.get('refittable') else ''}"


def engine_table(bundle: Bundle) -> Table:
    """Return one row per component: products by kind and precision, as read back from what was built."""
    table = Table(title="Engines: products by precision, as built", title_justify="left")
    table.add_column("component", no_wrap=True)
    for heading in ("matmul", "conv", "attn", "norms"):
        table.add_column(heading, no_wrap=True)
    for heading in ("bytes", "built"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, spec in bundle.manifest.components.items():
        engine = bundle.manifest.raw["components"][name]["engine"]
        proof = engine.get("precision", {})
        seconds = f"{engine['build_seconds']:.1f} s" if "build_seconds" in engine else "–"
        table.add_row(
            name,
            *(_counts(proof.get(kind, {})) for kind in _KINDS),
            readable(bundle.manifest.files[spec.engine_file].bytes),
            "reused" if engine.get("cached") else seconds,
        )
    return table


def engine_notes(bundle: Bundle) -> list[str]:
    """Return a line per component: where its counts were read, its float32 islands, and what the inspector counted."""
    lines = []
    for name in bundle.manifest.components:
        engine = bundle.manifest.raw["components"][name]["engine"]
        proof = engine.get("precision", {})
        islands = ", ".join(island.removesuffix(".weight") for island in proof.get("islands", [])) or "none"
        lines.append(f"{name}: read from the {proof.get('source', 'manifest')}; float32 islands: {islands}")
        if "inspected" in engine:
            seen = {kind: counts for kind, counts in engine["inspected"].items() if isinstance(counts, dict) and counts}
            kernels = "; ".join(f"{kind} {_counts(counts, ' ')}" for kind, counts in sorted(seen.items()))
            lines.append(f"{name}: {engine['inspected']['source']} counts {kernels}")
    return lines


def _counts(counts: Mapping[str, int], between: str = "\n") -> str:
    return between.join(f"{number} {precision}" for precision, number in sorted(counts.items())) or "–"
