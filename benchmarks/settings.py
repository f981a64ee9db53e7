"""Compares sampling settings, and bundles of one model, by a generation's seconds on the CPU, composed of its calls.

    python -m benchmarks.settings bundle bundle-int8 --sampling paper --sampling forecast --threads 2

A whole generation of a large model takes minutes to hours on a few cores. Its networks are called in few shapes: each
is timed by itself, at random inputs, the bundles in turns, and a generation's seconds are the sum over its calls, with
those between the networks, which run at the real settings around engines that answer at once. Shapes that are not timed
lie between two that are (benchmarks.figure3.calls). Every row is compared with the first.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.figure3.calls import calls_of, chosen, composed
from benchmarks.figure3.host import Call, idle_engines
from himar_export.families.hi_mar.bench.component_runs import visible_positions
from himar_kernels.families.hi_mar import SamplingConfig
from himar_kernels.families.hi_mar.phases import VAE_DECODER
from himar_kernels.families.settings import named_settings
from himar_kernels.shared.console import run_cli
from himar_kernels.shared.options import THREADS
from himar_runtime import Bundle, Device, Networks, Pipeline, load_networks
from himar_runtime.families.hi_mar.family import hi_mar_model


class Side:
    """A bundle with its engines: what its generations call, and how long a call takes."""

    def __init__(self, path: Path, names: tuple[str, ...], batch: int, threads: int | None) -> None:
        """names: of its settings. Raises InputError for one that it does not have."""
        self.bundle, self.batch = Bundle.open(path), batch
        self.model = hi_mar_model(self.bundle.manifest)
        self.networks: Networks = load_networks(self.bundle, Device("cpu"), threads)
        pipeline = Pipeline(self.bundle, idle_engines(self.networks, self.model))
        self.calls: dict[str, Counter[Call]] = {}
        self.host: dict[str, float] = {}
        for name in names:
            sampling = named_settings(SamplingConfig, self.bundle.manifest.sampling, name, "bundle")
            self.calls[name] = calls_of(self.model, sampling, batch, VAE_DECODER in self.networks.engines)
            start = time.perf_counter()
            pipeline.generate([0] * batch, sampling=sampling)
            self.host[name] = time.perf_counter() - start
        self.times: dict[Call, list[float]] = {}

    def prepare(self, most: int) -> None:
        """Choose the shapes to time, `most` of each series, and run each once."""
        for call in chosen([call for calls in self.calls.values() for call in calls], most):
            self.times[call] = []
            self.run(call)

    def run(self, call: Call) -> float:
        """Return the seconds of a call."""
        engine, inputs = self.networks[call.component], call_inputs(self, call)
        engine.bind(inputs)
        start = time.perf_counter()
        engine.run_on_device({})
        return time.perf_counter() - start

    def seconds(self, name: str) -> dict[str, float]:
        """Return the seconds of a setting's generation by component, `host` for what lies between them."""
        medians = {call: statistics.median(times) for call, times in self.times.items()}
        return {**composed(self.calls[name], medians), "host": self.host[name]}


def call_inputs(side: Side, call: Call) -> dict[str, NDArray[Any]]:
    """Return random inputs of a call's shape, always the same."""
    rng, model = np.random.default_rng(0), side.model
    lists: dict[str, Any] = {}
    for phase in model.phases:
        if phase.transformer == call.component:
            lists = visible_positions(model, phase, call.rows, call.known)
    inputs: dict[str, NDArray[Any]] = {}
    for tensor in side.networks[call.component].spec.inputs:
        if tensor.name in lists:
            inputs[tensor.name] = lists[tensor.name].numpy()
            continue
        sizes = [size if isinstance(size, int) else call.rows for size in tensor.shape]
        if call.component == VAE_DECODER:
            sizes[2:] = [model.grid, model.grid]
        whole = tensor.dtype == "int64"
        inputs[tensor.name] = np.full(sizes, 5) if whole else rng.normal(size=sizes).astype(np.float32)
    return inputs


@click.command(epilog="Example: python -m benchmarks.settings bundle bundle-int8 --sampling paper --sampling forecast")
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--sampling", "names", multiple=True, required=True, help="Named setting; the first is compared with.")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1, 1024), help="Images at once.")
@click.option("--threads", type=THREADS, help="CPU threads of the engines.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 1000), help="Timings of every call.")
@click.option("--shapes", default=3, show_default=True, type=click.IntRange(2, 4096), help="Most shapes of a series.")
@click.option("--json", "as_json", is_flag=True, help="Print the seconds as JSON.")
def main(
    bundles: tuple[Path, ...], names: tuple[str, ...], batch: int, threads: int | None, rounds: int, shapes: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Compare settings of BUNDLES."""
    sides = [Side(path, names, batch, threads) for path in bundles]
    for side in sides:
        side.prepare(shapes)
    for _ in range(rounds):
        for side in sides:
            for call, times in side.times.items():
                times.append(side.run(call))
    found = {f"{side.bundle.root} {name}": side.seconds(name) for side in sides for name in names}
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    first = sum(next(iter(found.values())).values())
    for title, parts in found.items():
        total = sum(parts.values())
        shares = ", ".join(f"{part} {seconds / total:.1%}" for part, seconds in parts.items())
        click.echo(f"{title}: {total:.1f} s for {batch}, {total / first:.3f} of the first; {shares}")


if __name__ == "__main__":
    sys.exit(run_cli(main))
