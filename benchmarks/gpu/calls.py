"""Times single calls of a bundle's components, compared with the eager model's in float32 first.

Every component's, engines beside eager and, of heads, torch.compile, with the kernels that a call ran; the DiT head's
by rows, whose activations may fit in a cache; and the heads' alone, called as the resident loop calls them, which is
what changes to graphs and operators are told apart by.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.process import Figures
from benchmarks.gpu.sides import opened
from himar_export.bench.component_runs import ComponentCall
from himar_export.bench.eager import wait_for
from himar_export.bench.engines import wait_for_lane
from himar_export.bench.environment import copy_rate, environment, matmul_rates
from himar_export.bench.measurement import ENGINES, measure
from himar_export.bench.timing import Outputs, Side
from himar_export.bench.workload import Workload
from himar_export.families.hi_mar.bench.component_runs import call_rows, component_call, component_calls
from himar_export.families.hi_mar.components import components
from himar_runtime.engines.engine import resolve_axes, resolved_shape
from himar_runtime.engines.ort.engine import RUNS_BEFORE
from himar_runtime.families.hi_mar.family import hi_mar_model
from himar_runtime.queue.device import DeviceTensor

WARM_UP = 0.5
"""Most seconds of a side's warm-up."""
MOST_KERNELS = 40
"""Of a call, the longest first."""


def peaks(figures: Figures, device: str, command: Sequence[str]) -> None:
    """Describe the machine, and measure what bounds everything else: the fastest copy, and large matmuls."""
    measured = {
        "environment": lambda: environment(device, command),
        "copy": lambda: copy_rate(device),
        "products": lambda: matmul_rates(device),
    }
    for name, make in measured.items():
        if figures.lacks(name):
            figures.keep(name, make())


def calls(figures: Figures, sources: Mapping[str, Any], batch: int, repeats: int, compiled: bool) -> bool:
    """Time one call of every component, the heads first, which alone are compiled; False when the time was up."""
    with opened(figures, sources, batch) as (workload, _):
        found = {call.work.name: call for call in component_calls(workload, batch, False)}
        for name in sorted(found, key=lambda name: "head" not in name):
            if not figures.lacks(name):
                continue
            if figures.seconds_left() <= 0:
                return False
            call = found[name]
            if compiled and "head" in name:
                call = component_call(workload, name, call.rows, None, batch, True)
            figures.keep(name, _figure(call, repeats, kernels=True))
            torch.compiler.reset()
    return True


def rows(figures: Figures, sources: Mapping[str, Any], batch: int, repeats: int, counts: Sequence[int]) -> bool:
    """Time the DiT head's engine with fewer rows: what a row would take in a smaller chunk of the batch."""
    with opened(figures, sources, batch) as (workload, _):
        names = [phase.head for phase in workload.bundle.manifest.model.phases if phase.kind == "dit"]
        for name, count in ((name, count) for name in names for count in counts if count <= 2 * batch):
            figure = f"{name}, {count} rows"
            if not figures.lacks(figure):
                continue
            if figures.seconds_left() <= 0:
                return False
            call = component_call(workload, name, count, None, batch, False)
            figures.keep(figure, _figure(_engines_alone(call), repeats))
    return True


def heads(figures: Figures, sources: Mapping[str, Any], batches: Sequence[int], repeats: int) -> bool:
    """Time the heads' calls as the resident loop makes them, all tensors in their places; recorded runs are replays."""
    with opened(figures, sources, max(batches)) as (workload, _):
        phases = {phase.head: phase for phase in hi_mar_model(workload.bundle.manifest).phases}
        for batch, (name, phase) in itertools.product(batches, phases.items()):
            figure = f"{name}, batch {batch}"
            if not figures.lacks(figure):
                continue
            if figures.seconds_left() <= 0:
                return False
            call = component_call(workload, name, call_rows(workload, name, phase, batch), None, batch, False)
            figures.keep(figure, _figure(_in_place(workload, call), repeats))
    return True


def _figure(call: ComponentCall, repeats: int, kernels: bool = False) -> dict[str, Any]:
    """Compare and time a call; what differs has no time."""
    result = measure(call.work, repeats, WARM_UP, lambda text, fraction: None)
    found: dict[str, Any] = {
        "rows": call.rows,
        "flops": call.cost.flops,
        "seconds": {side: each.summary.median for side, each in result.times.items()},
        "variation": {side: each.summary.variation for side, each in result.times.items()},
        "doubts": {side: list(each.doubts) for side, each in result.times.items() if each.doubts},
        "apart": {each.name: each.relative_l2 for each in result.comparisons},
        "refused": dict(result.refused),
    }
    if kernels:
        found["kernels"] = {each.name: kernels_of(each) for each in call.work.sides if each.name in result.times}
    return found


def kernels_of(side: Side) -> list[dict[str, Any]]:
    """Return what one run spent its time in, the longest together first: name, count and milliseconds.

    The GPU's kernels where there is one, else PyTorch's operators on the CPU.
    """
    on_gpu = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as watched:
        side.run()
    spent = [
        (each.self_device_time_total if on_gpu else each.self_cpu_time_total, each) for each in watched.key_averages()
    ]
    spent.sort(key=lambda each: -each[0])
    return [{"ms": time / 1e3, "count": e.count, "kernel": e.key[:160]} for time, e in spent[:MOST_KERNELS] if time]


def _engines_alone(call: ComponentCall) -> ComponentCall:
    sides = [side for side in call.work.sides if side.name == ENGINES]
    return replace(call, work=replace(call.work, sides=sides))


def _in_place(workload: Workload, call: ComponentCall) -> ComponentCall:
    """Return a head's call by its engine alone, on tensors that stay where they are, as a lane's do."""
    name = call.work.name
    engine, device = workload.networks[name], workload.device
    parts = {part.name: part for part in components(workload.model, workload.vae, workload.bundle.manifest.max_batch)}
    given = parts[name].sample_inputs(call.rows)
    axes = resolve_axes(engine.spec, {each: tuple(value.shape) for each, value in given.items()})
    places = {
        each.name: given[each.name].to(device, getattr(torch, each.dtype)).contiguous() for each in engine.spec.inputs
    }
    for each in engine.spec.outputs:
        shape = resolved_shape(each, axes)
        assert shape is not None  # a head's outputs are as large as its inputs
        places[each.name] = torch.full(shape, torch.nan, dtype=getattr(torch, each.dtype), device=device)
    wait_for(device)()
    tensors = {each: DeviceTensor(value.data_ptr(), tuple(value.shape)) for each, value in places.items()}
    wait = wait_for_lane(workload.networks)

    def run() -> None:
        engine.enqueue(tensors)
        wait()

    def outputs() -> Outputs:
        for _ in range(RUNS_BEFORE + 2):  # also of a replay
            run()
        return {each.name: places[each.name].float().cpu().numpy() for each in engine.spec.outputs}

    return replace(call, work=replace(call.work, sides=[Side(ENGINES, run, outputs)]))
