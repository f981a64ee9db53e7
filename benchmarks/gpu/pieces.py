"""Names the pieces of an hour on a GPU in their order, smallest questions first, each a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.build import bundle_path, checkpoint_path, decoder_path
from benchmarks.gpu.process import Piece, log_of
from benchmarks.gpu.record import Record
from himar_kernels.build.fused_library import VARIABLE
from himar_runtime.engines.ort.session import GRAPHS_VARIABLE

PRECISIONS = ("fp16", "fp8")
"""The first is measured in full, the second beside it."""
SETTINGS: Mapping[str, str] = {"paper": "paper", "forecast": "forecast"}
FOUND = "tests found"
ROWS = (32, 64, 128, 256)
"""Rows of a DiT head's call that are timed, as far as a guided step of the largest batch has them."""

STEPS: Mapping[str, Mapping[str, str]] = {
    "in place": {},
    "recorded": {GRAPHS_VARIABLE: "1"},
    "without Linear": {"HIMAR_LINEAR": "0"},
    "Linear without epilogues": {"HIMAR_LINEAR": "separate"},
    "Linear tuned": {"HIMAR_LINEAR_TUNE": "1"},
    "without our operators": {VARIABLE: ""},
}
"""What the heads' calls are told apart by, and the variables that switch it."""


@dataclass(frozen=True)
class Hour:
    """What is measured on what.

    bundles: the folder of ready bundles and their checkpoints. batches: of whole generations, the largest also of
    single calls. tests: files or folders of pytest's. cpp: the build folder of the C++ runtime. changes: to
    generations' settings. seconds: of their rounds. repeats: timed turns of a call. compiled: torch.compile of heads
    too. decodes: to images, not to latents. steps: of STEPS. A dry run does less of each.
    """

    model: str
    device: str
    bundles: Path
    batches: tuple[int, ...]
    backends: tuple[str, ...]
    tests: tuple[str, ...]
    cpp: Path
    changes: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 60.0
    repeats: int = 8
    compiled: bool = True
    decodes: bool = True
    steps: tuple[str, ...] = tuple(STEPS)


def pieces(hour: Hour, record: Record) -> Iterator[Piece]:
    """Return the pieces in order. Those of the tests are known once the record has the files that were found."""
    yield Piece("peaks", "peaks", {"device": hour.device, "command": ["python", *sys.argv]})
    for backend in hour.backends:
        yield from _calls(hour, backend)
    for backend in hour.backends:
        yield from _generations(hour, backend)
    yield from _tests(hour, record)
    yield from _cpp(hour, record)


def _calls(hour: Hour, backend: str) -> Iterator[Piece]:
    """Return the pieces of single calls: all of a bundle's, then the heads' in every way."""
    most = max(hour.batches)
    for precision in PRECISIONS if backend == "onnxruntime" else PRECISIONS[:1]:
        title, bundle = _title(precision, backend), bundle_path(hour.bundles, hour.model, precision, backend)
        needs, sources = _needs(hour, bundle), _sources(hour, bundle)
        yield Piece(f"self-test, {title}", "self_test", {"bundle": str(bundle), "device": hour.device}, needs=needs)
        own = {"sources": sources, "batch": most, "repeats": hour.repeats}
        yield Piece(
            f"calls, {title}", "calls", {**own, "compiled": hour.compiled and precision == PRECISIONS[0]}, needs=needs
        )
        if precision == PRECISIONS[0]:
            yield Piece(f"rows, {title}", "rows", {**own, "counts": ROWS}, needs=needs)
        steps = {name: STEPS[name] for name in (hour.steps if backend == "onnxruntime" else hour.steps[:1])}
        for step, environment in steps.items():
            arguments = {"sources": sources, "batches": sorted({1, most}), "repeats": hour.repeats}
            yield Piece(f"heads, {title}, {step}", "heads", arguments, environment, needs)


def _generations(hour: Hour, backend: str) -> Iterator[Piece]:
    """Return the pieces of whole generations, smallest first, and of their memory."""
    first, *others = PRECISIONS
    bundle = bundle_path(hour.bundles, hour.model, first, backend)
    for batch in sorted(hour.batches):
        for setting in SETTINGS:
            yield _generation(hour, first, backend, bundle, batch, setting)
    most = max(hour.batches)
    arguments = {"sources": _sources(hour, bundle, "paper"), "batch": most}
    yield Piece(f"memory, {_title(first, backend)}, batch {most}", "memory", arguments, needs=_needs(hour, bundle))
    for precision in others if backend == "onnxruntime" else ():
        own = bundle_path(hour.bundles, hour.model, precision, backend)
        for batch in sorted({1, most}):
            yield _generation(hour, precision, backend, own, batch, "paper")


def _generation(hour: Hour, precision: str, backend: str, bundle: Path, batch: int, setting: str) -> Piece:
    arguments = {"sources": _sources(hour, bundle, setting), "batch": batch, "seconds": hour.seconds}
    name = f"generation, {_title(precision, backend)}, batch {batch}, {setting}"
    return Piece(name, "generation", arguments, needs=_needs(hour, bundle))


def _tests(hour: Hour, record: Record) -> Iterator[Piece]:
    """Return the piece that finds the tests, then one for each file."""
    log = log_of(record.path, f"{FOUND}, pytest")
    yield Piece(FOUND, "found_tests", {"log": str(log), "folders": list(hour.tests)})
    for file in record.figures(FOUND).get("files", {}):
        name = f"tests, {file}"
        yield Piece(name, "tests", {"log": str(log_of(record.path, f"{name}, pytest")), "file": file})


def _cpp(hour: Hour, record: Record) -> Iterator[Piece]:
    """Return the pieces of the C++ runtime: its tests, and its times for the smallest and the largest batch."""
    program = hour.cpp / "tests" / "gpu" / "himar_gpu_tests"
    arguments = {"log": str(log_of(record.path, "C++ tests, output")), "build": str(hour.cpp)}
    yield Piece("C++ tests", "cpp_tests", arguments, needs=((program, "make cpp builds it"),))
    bundle = bundle_path(hour.bundles, hour.model, PRECISIONS[0], hour.backends[0])
    options = [text for name, value in hour.changes.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    for batch in sorted({min(hour.batches), max(hour.batches)}):
        for setting in SETTINGS:
            name = f"C++ bench, batch {batch}, {setting}"
            own = {**arguments, "log": str(log_of(record.path, f"{name}, output")), "bundle": str(bundle)}
            own |= {"device": hour.device, "images": batch, "runs": 3, "options": ["--sampling", setting, *options]}
            needs = ((hour.cpp / "examples" / "himar-bench", "make cpp builds it"), *_needs(hour, bundle))
            yield Piece(name, "cpp_bench", own, needs=needs)


def _title(precision: str, backend: str) -> str:
    return precision if backend == "onnxruntime" else f"{precision} by {backend}"


def _needs(hour: Hour, bundle: Path) -> tuple[tuple[Path, str], ...]:
    files = (bundle, checkpoint_path(hour.model, hour.bundles), decoder_path(hour.model, hour.bundles))
    how = f"python -m benchmarks.gpu.hour --prepare --bundles {hour.bundles} makes what can be made"
    return tuple((each, how) for each in files if each is not None)


def _sources(hour: Hour, bundle: Path, setting: str | None = None) -> dict[str, Any]:
    """Return what `sides.sources_of` takes."""
    vae = decoder_path(hour.model, hour.bundles) if hour.decodes else None
    found = {
        "bundle": str(bundle),
        "checkpoint": str(checkpoint_path(hour.model, hour.bundles)),
        "vae": None if vae is None else str(vae),
        "device": hour.device,
    }
    return found if setting is None else {**found, "sampling": setting, "changes": dict(hour.changes)}
