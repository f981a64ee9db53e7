"""Times what figure 3 needs, a call at a time, and keeps each in the record with its statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.figure3.calls import calls_of, chosen
from benchmarks.figure3.host import host_seconds
from benchmarks.figure3.points import Point, points_of
from benchmarks.figure3.ratios import statistics_of
from benchmarks.figure3.record import Record, Request
from benchmarks.figure3.rows import call_of
from benchmarks.gpu.build import build_bundles
from himar.families.hi_mar.config import read_config, resolve
from himar_export.bench.eager import plain_float32
from himar_export.bench.environment import environment
from himar_export.bench.generation import generation_work
from himar_export.bench.measurement import Measurement, measure
from himar_export.bench.workload import Sources, load, require_batch, require_gpu
from himar_export.families.hi_mar.bench.component_runs import component_call
from himar_kernels import EngineError, InputError, VerificationError
from himar_kernels.shared.files import require_writable_file, require_writable_folder
from himar_runtime import Bundle

Say = Callable[[str], None]


def measure_figure(request: Request, out: Path, say: Say) -> Record:
    """Time every model's calls, and whole generations where they are asked for; `cut_off` is set if minutes ran out.

    Raises EngineError where a bundle cannot be built or run, VerificationError when engines give other numbers than
    the eager model (what was measured before stays in the file), and InputError. Nothing is written before the request
    was checked and every bundle is there.
    """
    require_gpu(request.device)
    points = {}
    for config in request.configs:
        name = Path(config).stem
        if name in points:
            raise InputError(f"two configurations have the name {name!r}; leave one out, or rename its file.")
        points[name] = points_of(name, resolve(read_config(config), {}, config), request.steps)
    _require_writable(out)
    with plain_float32(request.threads) as threads:
        record = Record(out, request, threads, environment(request.device, request.command))
        built = []
        for name, config in zip(points, request.configs, strict=True):
            say(f"{name}: bundle")
            sources = _sources(request, config)
            bundle = Bundle.open(sources.bundle)
            require_batch(bundle, request.batch)
            built.append((name, sources, bundle))
        for name, sources, bundle in built:
            _measure_model(request, record, name, points[name], sources, bundle, threads, say)
    return record


def _require_writable(out: Path) -> None:
    """Raise InputError unless the record and what lies beside it can be written; their folder need not exist yet."""
    require_writable_folder(out.parent)
    if out.parent.exists():
        for ending in (".json", ".md", ".png"):
            require_writable_file(out.with_suffix(ending))


def _sources(request: Request, config: str) -> Sources:
    """Build a model's bundle, or find it."""
    built = build_bundles(
        request.work, config, request.precision, request.batch, (request.backend,), request.device
    )  # fmt: skip
    outcome = built["backends"][request.backend]
    if "error" in outcome:
        raise EngineError(f"the bundle of {config} for {request.backend} was not built: {outcome['error']}")
    return Sources(
        bundle=Path(outcome["bundle"]),
        checkpoint=Path(built["checkpoint"]),
        config=None,
        vae=None if built["vae"] is None else Path(built["vae"]),
        weights=None,
        device=request.device,
        sampling_name=None,
        guidance=None,
        changes={},
    )


def _measure_model(
    request: Request,
    record: Record,
    name: str,
    points: list[Point],
    sources: Sources,
    bundle: Bundle,
    threads: int,
    say: Say,
) -> None:
    entry = record.of(name, bundle.id)
    info, decodes = bundle.manifest.model, sources.vae is not None
    counts = {point.steps: calls_of(info, point.sampling, request.batch, decodes) for point in points}
    entry["points"] = [
        {"steps": point.steps, "sampling": point.sampling.to_dict(), "published": point.published,
         "calls": [{**asdict(call), "count": count} for call, count in counts[point.steps].items()]}
        for point in points
    ]  # fmt: skip
    entry["to"] = "images" if decodes else "latents"
    timed = {call_of(each) for each in entry["calls"]}
    wanted = chosen([call for each in counts.values() for call in each], request.shapes)
    missing = [call for call in wanted if call not in timed]
    idle = [point for point in points if str(point.steps) not in entry["host"] and request.device == "cpu"]
    whole = [point for point in points if str(point.steps) not in entry["whole"] and request.whole]
    record.write()
    if not (missing or idle or whole) or record.time_is_up():
        return
    say(f"{name}: loading both sides")
    workload = load(sources, threads)
    for number, call in enumerate(missing):
        if record.time_is_up():
            return
        say(f"{name}: {call.component}, {call.rows} rows, {call.known} visible ({number + 1} of {len(missing)})")
        work = component_call(workload, call.component, call.rows, call.known, request.batch, request.compiled).work
        entry["calls"].append({**asdict(call), **_figures(measure(work, request.repeats, 0.5, _silent))})
        record.write()
    for point in idle:
        if record.time_is_up():
            return
        say(f"{name}, {point.steps} steps: between the networks")
        entry["host"][str(point.steps)] = host_seconds(workload, point.sampling, request.batch)
        record.write()
    for point in whole:
        if record.time_is_up():
            return
        say(f"{name}, {point.steps} steps: whole generations")
        own = replace(workload, request=replace(workload.request, sampling=point.sampling))
        done = measure(generation_work(own, request.batch, request.compiled), request.repeats, 0.0, _silent)
        entry["whole"][str(point.steps)] = _figures(done)
        record.write()


def _figures(measurement: Measurement) -> dict[str, Any]:
    """Return every side's seconds, what they say, and the engines' error.

    Raises VerificationError where they were not timed.
    """
    if measurement.differ or not measurement.times:
        reasons = "; ".join(f"{side}: {text}" for side, text in measurement.refused.items())
        raise VerificationError(
            f"{measurement.name} at batch {measurement.batch} was not timed, since outputs differ: {reasons}."
        )
    return {
        "seconds": {side: list(timed.seconds) for side, timed in measurement.times.items()},
        **statistics_of(measurement),
        "refused": dict(measurement.refused),
        "relative_l2": measurement.apart,
    }


def _silent(text: str, fraction: float) -> None:
    """Measurements of single calls are too short to report on their steps."""
