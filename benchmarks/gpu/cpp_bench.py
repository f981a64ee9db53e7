"""Times the C++ runtime's whole generations by its own program, himar-bench, on the bundle that Python ran."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.gpu.process import ROOT, Figures
from benchmarks.gpu.suites import cpp_environment
from benchmarks.gpu.within import run_within


def cpp_bench(
    figures: Figures, log: str, build: str, bundle: str, device: str, images: int, runs: int, options: list[str]
) -> None:
    """Time `runs` runs of `images` images; RuntimeError where the program fails.

    options: of the sampling, as himar-bench takes them.
    """
    if not figures.lacks("bench"):
        return
    program = str(Path(build).absolute() / "examples" / "himar-bench")
    command = [program, bundle, "--labels", "0", "--count", str(images), "--repeat", str(runs), "--device", device,
               "--json", *options]  # fmt: skip
    outcome = run_within(command, Path(log), figures.seconds_left() - 5, ROOT, cpp_environment(Path(log).parent))
    lines = Path(log).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    if outcome["exit_code"] != 0:
        raise RuntimeError(f"himar-bench ended with {outcome}: {lines[-1] if lines else 'it printed nothing'}")
    figures.keep("bench", {"command": command, **json.loads(lines[-1])})
