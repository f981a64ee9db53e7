"""Compares a component in float32, in int8 with scales per row and with fixed scales, and in fp8, on one CPU.

    python -m benchmarks.int8_scales random-b.safetensors --config himar-b --component dit_head

Weights may be random (`himar init`), which times do not depend on. The calls are of one thread and take turns, and what
counts is the thread's CPU time, so that other work on the machine disturbs it little. Ratios are of float32's time and
each one's, the median over the rounds. Fixed scales are those of the inputs that are run. fp8 is emulated on a CPU: its
error counts, not its time.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import onnx
import onnx_ir as ir

from himar.cli.options import config_option
from himar.family import open_model
from himar_export.families.family import export_family
from himar_export.graph.component import Component
from himar_export.graph.fp8 import multiplied
from himar_export.graph.observed import Observations, Range, observe
from himar_export.graph.onnx_export import to_onnx
from himar_export.graph.precision_choice import Precision
from himar_export.graph.quantise import observed_values
from himar_export.make.weights import weight_file
from himar_kernels import InputError
from himar_kernels.shared.console import run_cli
from himar_kernels.shared.options import NamedPath
from himar_runtime.engines.ort.session import onnxruntime

Ranges = Mapping[str, Range] | None


def session(component: Component, precision: Precision, ranges: Ranges, observing: bool = False) -> Any:
    """Export a component and load it with one thread."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, ort = Path(temporary), onnxruntime()
        weights = weight_file(folder)
        model = to_onnx(component, precision, weights, ranges)
        weights.stream.close()
        if observing:
            graph = ir.from_proto(model)
            observe(graph, observed_values(graph, component.islands))
            model = ir.to_proto(graph)
        file = folder / "graph.onnx"
        onnx.save(model, file)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3  # no warnings of what a CPU cannot fold in half precision
        return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def compare(component: Component, rows: int, rounds: int) -> dict[str, tuple[float, float, float]]:
    """Return by kind: milliseconds, float32's time by its own, relative L2 from float32's outputs."""
    inputs = {name: tensor.numpy() for name, tensor in component.sample_inputs(rows).items()}
    observing, found = session(component, "fp32", None, observing=True), Observations()
    names = [output.name for output in observing.get_outputs()]
    found.add(dict(zip(names, observing.run(None, inputs), strict=True)))
    del observing
    sessions = {
        "float32": session(component, "fp32", None),
        "scales per row": session(component, "int8", None),
        "fixed scales": session(component, "int8", found.ranges()),
        "fp8": session(component, "fp8", _by_weight(component, found.ranges())),
    }
    outputs = {kind: np.concatenate([y.ravel() for y in each.run(None, inputs)]) for kind, each in sessions.items()}
    times: dict[str, list[float]] = {kind: [] for kind in sessions}
    for _ in range(rounds):
        for kind, each in sessions.items():
            start = time.thread_time()
            each.run(None, inputs)
            times[kind].append(time.thread_time() - start)
    exact, full = outputs["float32"], times["float32"]
    return {
        kind: (
            1000 * median(spent),
            median(a / b for a, b in zip(full, spent, strict=True)),
            float(np.linalg.norm(outputs[kind] - exact) / np.linalg.norm(exact)),
        )
        for kind, spent in times.items()
    }


def _by_weight(component: Component, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Return ranges by the names of the weights that multiply what was observed, as fp8 wants them."""
    with tempfile.TemporaryDirectory() as temporary:
        weights = weight_file(Path(temporary))
        graph = ir.from_proto(to_onnx(component, "fp32", weights))
        weights.stream.close()
    return {weight: ranges[value.name] for weight, value in multiplied(graph).items() if value.name is not None}


@click.command()
@click.argument("checkpoint", type=NamedPath(dir_okay=False))
@click.option("--config", callback=config_option, help="Preset or JSON file; the checkpoint's own if not given.")
@click.option("--component", "names", multiple=True, default=("dit_head",), show_default=True, help="May be repeated.")
@click.option("--rows", default=2, show_default=True, type=click.IntRange(1, 1024))
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1, 10_000))
def main(checkpoint: Path, config: str | None, names: tuple[str, ...], rows: int, rounds: int) -> None:
    """Print a line for each component and kind."""
    model = open_model(checkpoint, config)[0]
    parts = {part.name: part for part in export_family(model.family).components(model, None, rows, "onnxruntime")}
    for name in names:
        if name not in parts:
            raise InputError(f"the model has no component {name!r}; it has {', '.join(parts)}.")
        for kind, (milliseconds, ratio, apart) in compare(parts[name], rows, rounds).items():
            click.echo(f"{name}, {rows} rows, {kind:15}{milliseconds:9.1f} ms {ratio:6.2f} x  error {apart:.1e}")


if __name__ == "__main__":
    sys.exit(run_cli(main))
