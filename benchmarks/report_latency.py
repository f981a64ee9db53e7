"""Latencies of single components and of whole generations: eager PyTorch, torch.compile, and the engines.

The same weights, labels, seeds and precision on all sides; half precision is autocast in PyTorch. Engines and eager
are compared before they are timed: a side whose numbers differ has no latency in the report.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import himar
from himar.model import HiMAR
from himar_export.bench.peaks import seconds_each
from himar_export.components import components
from himar_export.precision import DTYPES
from himar_export.verify import COMPONENT_LIMIT
from himar_kernels import HimarError, PhiloxDraws
from himar_runtime import Bundle, Device, Pipeline, load_networks

LABELS = [(37 * i) % 1000 for i in range(1024)]


def component_latencies(
    work: Path, built: Mapping[str, Any], precision: str, batches: tuple[int, ...], device: str
) -> dict[str, Any]:
    """Return seconds of one run of every component at 2·batch rows, eager, compiled and by backend.

    Eager and compiled run the component's export graph, so both sides do the same folded work.
    """
    model = _load(built, device)
    engines = _engines(built, device)
    outcome: dict[str, Any] = {}
    for part in components(model, None, max(batches)):
        graph = part.graph(DTYPES[precision]).eval().to(device)
        compiled = torch.compile(graph, dynamic=False)
        for batch in batches:
            rows = 2 * batch
            inputs = {name: value.to(device) for name, value in part.sample_inputs(rows).items()}
            times: dict[str, Any] = {}
            with torch.inference_mode():
                wanted = _first(graph(**inputs))
                times["eager"] = seconds_each(lambda i=inputs, g=graph: g(**i), device)  # type: ignore[misc]
                times["compiled"] = _or_error(lambda i=inputs, g=compiled: seconds_each(lambda: g(**i), device))  # type: ignore[misc]
            host = {name: value.cpu().numpy() for name, value in inputs.items()}
            for backend, networks in engines.items():
                engine = networks[part.name]
                times[backend] = _or_error(
                    lambda e=engine, n=networks, h=host, w=wanted: _engine_seconds(e, n.lane, h, w, precision)  # type: ignore[misc]
                )
            outcome[f"{part.name} at batch {batch}"] = times
        torch.compiler.reset()
    return outcome


def generation_latencies(
    work: Path, built: Mapping[str, Any], precision: str, batch: int, repeats: int, device: str
) -> dict[str, Any]:
    """Return seconds of whole generations to latents, the model's released steps, every repetition."""
    model = _load(built, device)
    labels = [label % model.config.classes for label in LABELS[:batch]]

    def eager() -> np.ndarray:
        half = precision != "fp32"
        with torch.autocast(device, DTYPES[precision], enabled=half):
            return himar.generate(model, labels, draws=PhiloxDraws(7)).float().cpu().numpy()

    outcome: dict[str, Any] = {"batch": batch, "eager": _times(eager, repeats, device)}
    wanted = eager()
    for name, entry in built["backends"].items():
        if "bundle" in entry:
            outcome[name] = _or_error(
                lambda e=entry: _generation(Path(e["bundle"]), labels, wanted, repeats, device)  # type: ignore[misc]
            )
    # Last, because it changes the model: the parts that run once per diffusion step and once per autoregressive step.
    model.mlp_head.denoise = torch.compile(model.mlp_head.denoise, dynamic=True)  # type: ignore[method-assign]
    model.dit_head.denoise = torch.compile(model.dit_head.denoise)  # type: ignore[method-assign]
    outcome["compiled"] = _or_error(lambda: _times(eager, repeats, device))
    torch.compiler.reset()
    return outcome


def _generation(path: Path, labels: list[int], wanted: np.ndarray, repeats: int, device: str) -> dict[str, Any]:
    pipeline = Pipeline.load(path, device=device)
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else 0

    def run() -> np.ndarray:
        return pipeline.generate(labels, seed=7).latents

    # Runs in half precision part ways over hundreds of steps; what is compared here is that images are alike.
    apart = float(np.linalg.norm(run() - wanted) / np.linalg.norm(wanted))
    outcome = {"runner": type(pipeline._runner).__name__, "relative_l2_from_eager": apart}
    outcome |= _times(run, repeats, device)
    if device == "cuda":
        outcome["bytes_used"] = free - torch.cuda.mem_get_info()[0]
    return outcome


def _times(run: Callable[[], Any], repeats: int, device: str) -> dict[str, Any]:
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return {"seconds": times, "median": statistics.median(times)}


def _engine_seconds(engine: Any, lane: Any, inputs: dict[str, Any], wanted: torch.Tensor, precision: str) -> Any:
    found = _first(engine.run(inputs))
    reference = wanted.float().cpu().numpy()
    apart = float(np.linalg.norm(found - reference) / np.linalg.norm(reference))
    if not apart <= COMPONENT_LIMIT[precision]:
        return {"error": f"differs from eager by {apart:.2e}, so it was not timed"}
    engine.bind(inputs)
    times = []
    for _ in range(23):
        start = time.perf_counter()
        engine.run_on_device({})
        if lane is not None:
            lane.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:])


def _engines(built: Mapping[str, Any], device: str) -> dict[str, Any]:
    loaded = {}
    for name, entry in built["backends"].items():
        if "bundle" in entry:
            try:
                loaded[name] = load_networks(Bundle.open(entry["bundle"]), Device.parse(device), None)
            except HimarError as error:
                entry["load_error"] = str(error)
    return loaded


def _load(built: Mapping[str, Any], device: str) -> HiMAR:
    return himar.load_checkpoint(built["checkpoint"]).eval().to(device)


def _first(outputs: Any) -> Any:
    if isinstance(outputs, Mapping):
        return next(iter(outputs.values()))
    return outputs[0] if isinstance(outputs, tuple) else outputs


def _or_error(measure: Callable[[], Any]) -> Any:
    try:
        return measure()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
