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
    for heading in (
        "component",
        "asked",
        "matmul",
        "convolution",
        "attention",
        "norms",
        "float32 islands",
        "read from",
    ):
        table.add_column(heading, overflow="fold")
    for heading in ("engine", "built in"):
        table.add_column(heading, justify="right")
    for name, spec in bundle.manifest.components.items():
        engine = bundle.manifest.raw["components"][name]["engine"]
        proof = engine.get("precision", {})
        seconds = f"{engine['build_seconds']:.1f} s" if "build_seconds" in engine else "–"
        table.add_row(
            name,
            spec.precision,
            *(_counts(proof.get(kind, {})) for kind in _KINDS),
            "\n".join(proof.get("islands", [])) or "–",
            proof.get("source", "–"),
            readable(bundle.manifest.files[spec.engine_file].bytes),
            f"{seconds}, reused" if engine.get("cached") else seconds,
        )
        if "inspected" in engine:
            seen = {kind: counts for kind, counts in engine["inspected"].items() if isinstance(counts, dict) and counts}
            kernels = "; ".join(f"{kind} {_counts(counts, ' ')}" for kind, counts in sorted(seen.items()))
            table.add_row("", "", kernels, "", "", "", "", engine["inspected"]["source"], "", "")
    return table


def _counts(counts: Mapping[str, int], between: str = "\n") -> str:
    return between.join(f"{number} {precision}" for precision, number in sorted(counts.items())) or "–"
