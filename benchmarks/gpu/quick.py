"""Times a half-precision bundle on a GPU in some minutes: single calls first, then whole generations in turns.

    python -m benchmarks.gpu.quick BUNDLE --checkpoint himar-b.safetensors --vae kl16.safetensors --out h200.json

`himar-export bench` compares whole generations with the eager model in float32, which takes longer on a GPU than
everything else together at a batch of 128. Here every component's call is compared with float32 at that batch, and a
generation's latents with those of the eager model in the engines' own precision, for all images. What differs has no
time. With --kernels, where a call's time goes, by kernel; with --rows, what a row takes in smaller calls of the DiT
head, whose activations may fit a cache. Whole generations run a third time with ONNX Runtime's runs recorded in CUDA
graphs. The file is written after every figure, so that a run that is cut off keeps what it has. When engines or a side
of a generation differ, the exit code is 1.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.quick_turns import Generate, Turns, limit_against_eager, run_in_turns
from himar_export.bench.component_runs import ComponentCall
from himar_export.bench.eager import plain_float32
from himar_export.bench.environment import copy_rate, environment, matmul_rates
from himar_export.bench.generation import run_engines
from himar_export.bench.measurement import EAGER, ENGINES, Measurement, measure
from himar_export.bench.timing import Side
from himar_export.bench.workload import Sources, Workload, load, require_batch, require_gpu
from himar_export.families.hi_mar.bench.component_runs import component_call, component_calls
from himar_export.families.hi_mar.bench.eager import eager_networks, run_eager
from himar_kernels import InputError
from himar_kernels.shared.console import FAILURE, run_cli
from himar_kernels.shared.files import require_writable_file, require_writable_folder, write_json
from himar_kernels.shared.options import FiniteRange, NamedPath, device_option
from himar_runtime import Bundle, Pipeline
from himar_runtime.engines.ort.session import GRAPHS_VARIABLE

RECORDED = "engines, recorded"
ROWS = (32, 64, 128, 256)
"""Rows of a DiT head's call that are timed, as far as a guided step of the batch has them."""


class Kept:
    """The JSON file, written anew with every figure."""

    def __init__(self, out: Path) -> None:
        self.content: dict[str, Any] = {}
        self._out, self._start = out, time.monotonic()

    def add(self, name: str, value: Any) -> None:
        """Keep a figure, and say it."""
        self._out.parent.mkdir(parents=True, exist_ok=True)
        self.content[name] = value
        write_json(self._out, self.content)
        click.echo(f"[{time.monotonic() - self._start:5.1f} s] {name}: {value}", err=True)

    def seconds(self) -> float:
        """Return how long this has run."""
        return time.monotonic() - self._start


def kernels_of(side: Side) -> list[dict[str, Any]]:
    """Return the kernels of one run on the GPU, the longest together first: name, count and milliseconds."""
    with profile(activities=[ProfilerActivity.CUDA]) as watched:
        side.run()
    found = [each for each in watched.key_averages() if each.self_device_time_total]
    found.sort(key=lambda each: -each.self_device_time_total)
    return [{"ms": e.self_device_time_total / 1e3, "count": e.count, "kernel": e.key[:160]} for e in found]


def timed(call: ComponentCall) -> Measurement:
    """Compare and time a single call; what differs has no time."""
    return measure(call.work, 8, 0.5, lambda text, fraction: None)


def components(workload: Workload, batch: int, compiled: bool, kernels: bool, kept: Kept, until: float) -> None:
    """Time one call of every component, the heads first, which alone are compiled."""
    calls = {call.work.name: call for call in component_calls(workload, batch, False)}
    if compiled:
        heads = [name for name in calls if "head" in name]
        calls |= {name: component_call(workload, name, calls[name].rows, None, batch, True) for name in heads}
    for name in sorted(calls, key=lambda name: "head" not in name):
        if kept.seconds() > until:
            return
        call = calls[name]
        result = timed(call)
        figures = {
            "rows": call.rows,
            "flops": call.cost.flops,
            "seconds": {side: each.summary.median for side, each in result.times.items()},
            "apart": {each.name: each.relative_l2 for each in result.comparisons},
            "refused": dict(result.refused),
        }
        if kernels:
            figures["kernels"] = {each.name: kernels_of(each) for each in call.work.sides if each.name in result.times}
        kept.add(name, figures)
    torch.compiler.reset()


def recording_pipeline(bundle: Bundle, device: torch.device) -> Pipeline:
    """Return a pipeline whose sessions of ONNX Runtime record their runs."""
    before = os.environ.get(GRAPHS_VARIABLE)
    os.environ[GRAPHS_VARIABLE] = "1"
    try:
        return Pipeline.load(bundle.root, device=str(device))
    finally:
        del os.environ[GRAPHS_VARIABLE]
        if before is not None:
            os.environ[GRAPHS_VARIABLE] = before


def rows(workload: Workload, batch: int, kept: Kept, until: float) -> None:
    """Time calls of the DiT heads' engines with fewer rows: what a row would take in a smaller chunk of the batch."""
    heads = [phase.head for phase in workload.bundle.manifest.model.phases if phase.kind == "dit"]
    found: list[dict[str, Any]] = []
    for name, count in ((name, count) for name in heads for count in ROWS if count <= 2 * batch):
        if kept.seconds() > until:
            return
        call = component_call(workload, name, count, None, batch, False)
        result = timed(call)
        figures: dict[str, Any] = {"component": name, "rows": count, "refused": dict(result.refused)}
        if ENGINES in result.times:
            seconds = result.times[ENGINES].summary.median
            figures |= {
                "seconds": seconds,
                "seconds_per_row": seconds / count,
                "flops_per_second": call.cost.flops / seconds,
                "doubts": list(result.times[ENGINES].doubts),
            }
        found.append(figures)
        kept.add("rows", found)


def generations(workload: Workload, batch: int, kept: Kept, minutes: float) -> None:
    """Run whole generations of all sides in turns while there is time for another round, at least one of each."""
    labels, sampling = workload.labels(batch), workload.sampling
    own = eager_networks(workload.model, workload.vae, workload.eager_precisions)
    sides: dict[str, Generate] = {
        EAGER: lambda: run_eager(own, labels, sampling)["latents"],
        ENGINES: lambda: run_engines(workload.pipeline, labels, sampling)["latents"],
    }
    backends = {each.backend for each in workload.bundle.manifest.components.values()}
    if workload.device.type == "cuda" and backends == {"onnxruntime"}:
        recording = recording_pipeline(workload.bundle, workload.device)
        sides[RECORDED] = lambda: run_engines(recording, labels, sampling)["latents"]
    run_in_turns(
        sides,
        Turns(batch, limit_against_eager(workload)),
        lambda turns: kept.seconds() + sum(found[-1] for found in turns.times.values()) < 60 * minutes,
        lambda turns: kept.add("generation", turns.figures()),
    )


def differing(content: Mapping[str, Any]) -> list[str]:
    """Return what was refused a time: components' engines, calls of fewer rows, and sides of a generation."""
    whole = content.get("generation", {"refused": {}})
    parts = {name: each for name, each in content.items() if isinstance(each, Mapping) and each is not whole}
    names = [name for name, each in parts.items() if ENGINES in each.get("refused", {})]
    names += [f"{each['component']} with {each['rows']} rows" for each in content.get("rows", ())
              if ENGINES in each["refused"]]  # fmt: skip
    return names + [f"the generation by {side}" for side in whole["refused"]]


def _require_new(out: Path) -> None:
    """Raise InputError unless `out` is free and can be written; its folder need not exist yet."""
    if out.exists() or out.is_symlink():
        raise InputError(f"{out} exists; choose another --out or remove it.")
    require_writable_folder(out.parent)
    if out.parent.exists():
        require_writable_file(out)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--checkpoint", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--vae", type=click.Path(path_type=Path, exists=True), help="Decode too.")
@click.option("--device", default="cuda", show_default=True, callback=device_option, help="cpu, cuda or cuda:N.")
@click.option("--batch", default=128, show_default=True, type=click.IntRange(1, 1024))
@click.option("--compile/--no-compile", "compiled", default=True, help="torch.compile of the heads too.")
@click.option("--kernels", is_flag=True, help="Where the time of single calls goes.")
@click.option("--calls/--no-calls", default=True, help="Single calls.")
@click.option("--rows/--no-rows", "with_rows", default=True, help="The DiT head's time for a row, by rows of a call.")
@click.option("--whole/--no-whole", default=True, help="Whole generations.")
@click.option("--minutes", default=4.0, show_default=True, type=FiniteRange(min=0), help="Start nothing new after it.")
@click.option("--out", required=True, type=NamedPath(dir_okay=False))
def main(
    bundle: Path,
    checkpoint: Path,
    vae: Path | None,
    device: str,
    batch: int,
    compiled: bool,
    kernels: bool,
    calls: bool,
    with_rows: bool,
    whole: bool,
    minutes: float,
    out: Path,
) -> int:
    """Measure, and write the figures to a JSON file."""
    if kernels and device == "cpu":
        raise click.UsageError("--kernels shows a GPU's kernels, which --device cpu has none of; leave it out.")
    _require_new(out)
    require_gpu(device)
    kept = Kept(out)
    sources = Sources(bundle, checkpoint, None, vae, None, device, None, None, {})
    with plain_float32(None) as threads:
        require_batch(Bundle.open(bundle), batch)
        workload = load(sources, threads)
        kept.add("environment", environment(device, ["python", *sys.argv]))
        kept.add("batch", batch)
        kept.add("copy", copy_rate(device))
        kept.add("products", matmul_rates(device))
        kept.add("bundle", workload.bundle.id)
        until = 30 * minutes if whole else 60 * minutes
        if calls:
            components(workload, batch, compiled, kernels, kept, until)
        if with_rows:
            rows(workload, batch, kept, until)
        if whole:
            generations(workload, batch, kept, minutes)
    if names := differing(kept.content):
        click.echo(f"error: outputs differ or are missing of {', '.join(names)}; {out} says why.", err=True)
        return FAILURE
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
