"""Times the GPU report's engines: checks their numbers on the device, then runs `himar-export bench` by batch size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from himar_export.bench.report import report_values
from himar_export.bench.run import BenchRequest, run_bench
from himar_export.bench.workload import Sources
from himar_export.verify.verify import verify_selftest
from himar_runtime import Bundle


def parity(bundle: Path, device: str) -> dict[str, Any]:
    """Replay a bundle's self-test on the device, as `himar-export verify`; "passed": every output is right."""
    compared = verify_selftest(Bundle.open(bundle), device)
    return {
        "passed": all(each.passed is not False for each in compared),
        "comparisons": [{**asdict(each), "passed": each.passed} for each in compared],
    }


def latencies(
    built: Mapping[str, Any], backend: str, batch: int, repeats: int, device: str, *, compiled: bool
) -> dict[str, Any]:
    """Return what `himar-export bench --json` gives for one backend's bundle: components, generations, memory.

    built: what `build_bundles` returned. compiled: torch.compile too, which is the same for every backend.
    """
    sources = Sources(
        bundle=Path(built["backends"][backend]["bundle"]),
        checkpoint=Path(built["checkpoint"]),
        config=None,
        vae=None if built["vae"] is None else Path(built["vae"]),
        weights=None,
        device=device,
        sampling_name=None,
        guidance=None,
        changes={},
    )
    request = BenchRequest(sources, (batch,), repeats, compiled=compiled, components=True, memory=True)
    return report_values(run_bench(request, lambda text, fraction: None))
