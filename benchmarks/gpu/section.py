"""Runs a section of a report in a process of its own: a crash, a hang or an unusable GPU ends only that section.

The process runs this module, called with a section's name, its arguments as JSON and the file for its outcome.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.pytest_run import run_within


class SectionError(Exception):
    """A section did not end, or failed; the text says how, with the last line of its log."""


def run_section(name: str, arguments: Mapping[str, Any], folder: Path, label: str, seconds: float) -> Any:
    """Run a section for at most `seconds`; return its outcome. Its log is `folder`/`label`.log.

    Raises SectionError when it failed, was killed by a signal, or was stopped because the time was up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain = "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in label)
    log, result = folder / f"{plain}.log", folder / f"{plain}.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu.section", name, json.dumps(arguments), str(result.absolute())]
    outcome = run_within(command, log, seconds, Path(__file__).parents[2])
    code = outcome["exit_code"]
    if code == 0:
        return json.loads(result.read_text(encoding="utf-8"))
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = lines[-1] if lines else "it printed nothing"
    if code is None:
        raise SectionError(f"stopped after {outcome['stopped_after']} s, when the time was up; {log}: {last}")
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    raise SectionError(f"{how}; {log}: {last}")


def _environment(device: str, command: list[str]) -> Any:
    from himar_export.bench.environment import environment

    return environment(device, command)


def _copy(device: str) -> Any:
    from himar_export.bench.environment import copy_rate

    return copy_rate(device)


def _products(device: str) -> Any:
    from himar_export.bench.environment import matmul_rates

    return matmul_rates(device)


def _bundle(work: str, model: str, precision: str, max_batch: int, backend: str, device: str) -> Any:
    from benchmarks.gpu.build import build_bundles

    built = build_bundles(Path(work), model, precision, max_batch, (backend,), device)
    if "error" in built["backends"][backend]:
        raise SectionError(built["backends"][backend]["error"])
    return built


def _parity(bundle: str, device: str) -> Any:
    from benchmarks.gpu.latency import parity

    return parity(Path(bundle), device)


def _latencies(built: Mapping[str, Any], backend: str, batch: int, repeats: int, device: str, compiled: bool) -> Any:
    from benchmarks.gpu.latency import latencies

    return latencies(built, backend, batch, repeats, device, compiled=compiled)


def _figure3(out: str, **options: Any) -> Any:
    from benchmarks.figure3.run import make

    return make(Path(out), options)


def _training(model: str, batch: int, device: str, precision: str, compiled: bool) -> Any:
    from benchmarks.training.throughput import measure_all

    return measure_all(model, [batch], device, precision, 7, recompute=False, compiled=compiled)  # type: ignore[arg-type]


SECTIONS: Mapping[str, Callable[..., Any]] = {
    "environment": _environment,
    "copy": _copy,
    "products": _products,
    "bundle": _bundle,
    "parity": _parity,
    "latencies": _latencies,
    "figure3": _figure3,
    "training": _training,
}


def main(name: str, arguments: str, result: str) -> None:
    """Run a section and write its outcome."""
    outcome = SECTIONS[name](**json.loads(arguments))
    Path(result).write_text(json.dumps(outcome), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
