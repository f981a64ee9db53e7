"""Everything that needs a GPU, in one run: peaks, tests, training, and eager and compiled against every backend.

    python benchmarks/gpu_report.py --out docs/results/h100.json
    python benchmarks/gpu_report.py --model digits --device cpu --batch 1 --train-batch 2 --no-tests --out try.json

The second tries the script without a GPU. Sections run in the order of the file and are written as they finish, so that
a run that is cut off keeps what it has.
What fails is recorded with its error, and the report goes on: that TensorRT-RTX refuses a GPU is a result too.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

from himar.train_settings import Precision

sys.path.insert(0, str(Path(__file__).parent))
from report_build import build_bundles
from report_latency import latencies
from report_tests import gpu_tests
from train_throughput import measure_all

from himar_export.bench.environment import environment
from himar_export.bench.peaks import copy_rate, product_rates


class Report:
    """The JSON file, written anew after every section."""

    def __init__(self, path: Path, minutes: float) -> None:
        self.path = path
        self.content: dict[str, Any] = {}
        self._end = time.monotonic() + 60 * minutes

    @property
    def seconds_left(self) -> float:
        """Seconds until no new section starts."""
        return max(0.0, self._end - time.monotonic())

    def section(self, name: str, make: Callable[[], Any]) -> Any:
        """Run a section unless the time is up; keep its outcome or its error. Returns the outcome or None."""
        if time.monotonic() > self._end:
            self.content[name] = {"skipped": "the time given with --minutes was up"}
            self._write()
            return None
        click.echo(f"{name} …", err=True)
        start = time.perf_counter()
        outcome = None
        try:
            outcome = self.content[name] = make()
        except Exception as error:
            self.content[name] = {"error": f"{type(error).__name__}: {error}"}
        self.content.setdefault("seconds", {})[name] = round(time.perf_counter() - start, 1)
        self._write()
        return outcome

    def _write(self) -> None:
        self.path.write_text(json.dumps(self.content, indent=1), encoding="utf-8")


@click.command()
@click.option("--model", default="himar-b", show_default=True, help="Preset; random weights unless it is digits.")
@click.option("--device", default="cuda", show_default=True, type=click.Choice(["cuda", "cpu"]))
@click.option("--precision", default="fp16", show_default=True, type=click.Choice(["fp32", "fp16", "bf16"]))
@click.option("--batch", "batches", multiple=True, type=click.IntRange(1), default=(1, 8, 64, 128), show_default=True)
@click.option("--backend", "backends", multiple=True, default=("onnxruntime", "tensorrt", "tensorrt-rtx"))
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(3), help="Timed runs of each side.")
@click.option("--tests/--no-tests", default=True, help="Run pytest -m gpu first.")
@click.option(
    "--train-batch",
    "train_batches",
    multiple=True,
    type=click.IntRange(1),
    default=(32, 128, 256),
    show_default=True,
    help="Images of a training step.",
)
@click.option(
    "--minutes",
    default=60.0,
    show_default=True,
    help="Start no new section after this time; tests are stopped after half of what is left of it.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False))
def main(
    model: str,
    device: str,
    precision: str,
    batches: tuple[int, ...],
    backends: tuple[str, ...],
    repeats: int,
    tests: bool,
    train_batches: tuple[int, ...],
    minutes: float,
    out: Path,
) -> None:
    """Measure and test everything that needs a GPU, and write it to a JSON file."""
    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("this machine has no GPU that PyTorch can use; --device cpu tries the script.")
    report = Report(out, minutes)
    report.section("environment", lambda: environment(device, ["python", *sys.argv]))
    report.section("copy", lambda: copy_rate(device))
    report.section("products", lambda: product_rates(device))
    if tests:
        # Half, so that a machine which is lent for an hour has measured something when it goes back.
        log = out.absolute().with_name("gpu-tests.log")
        report.section("tests", lambda: gpu_tests(log, report.seconds_left / 2))
    half: Precision = "fp32" if device == "cpu" else "bf16"
    for compiled in (False, True) if device == "cuda" else (False,):
        name = f"training, {half}{', compiled' if compiled else ''}"
        report.section(
            name,
            lambda c=compiled: measure_all(model, train_batches, device, half, 7, recompute=False, compiled=c),  # type: ignore[misc]
        )
    work = out.with_suffix(".work")
    built = report.section("bundles", lambda: build_bundles(work, model, precision, max(batches), backends, device))
    if built is not None:
        ready = [name for name, entry in built["backends"].items() if "bundle" in entry]
        for batch in batches:
            for backend in ready:
                report.section(
                    f"{backend} at batch {batch}",
                    lambda backend=backend, batch=batch: latencies(  # type: ignore[misc]
                        built, backend, batch, repeats, device, compiled=device == "cuda" and backend == ready[0]
                    ),
                )
    click.echo(f"→ {out}")


if __name__ == "__main__":
    main()
