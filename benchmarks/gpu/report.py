"""Runs everything that needs a GPU: parity first, then eager and compiled against every backend, and the rest.

    python -m benchmarks.gpu.report --out docs/results/h100.json
    python -m benchmarks.gpu.report --model digits --device cpu --batch 1 --train-batch 2 --no-tests --out try.json

The second tries the script without a GPU. In this order: the device's peaks; a bundle per backend, its self-test
replayed on the device, and only then latencies, the largest batch first; the tests that need a GPU; figure 3; the other
batches; training. Every section is a process of its own with half of the time that is left as its limit, so that none
can use it up or break the others, and is written as it ends; the same command continues with the rest.
What fails is recorded with its error: that TensorRT-RTX refuses a GPU is a result too. "aims" says what was met.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.gpu.aims import aims
from benchmarks.gpu.pytest_run import gpu_tests
from benchmarks.gpu.section import run_section
from himar.families.hi_mar.presets import PRESETS
from himar_kernels.shared.console import run_cli
from himar_kernels.shared.errors import InputError
from himar_kernels.shared.files import write_json
from himar_kernels.shared.options import FiniteRange


class Report:
    """The JSON file, written anew after every section."""

    def __init__(self, path: Path, minutes: float, asked: Mapping[str, Any] | None = None) -> None:
        """Begin a report, or continue the one at `path`; InputError for another request's, or a damaged one."""
        self.path = path
        self.content: dict[str, Any] = {"asked": dict(asked or {})}
        if path.exists():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
                before = found["asked"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(f"{path} is not a report to continue ({error!r}); choose another --out.") from error
            if before != self.content["asked"]:
                raise InputError(f"{path} is the report of other options, {before}; choose another --out.")
            self.content = found
        self._end = time.monotonic() + 60 * minutes

    @property
    def seconds_left(self) -> float:
        """Seconds until no new section starts."""
        return max(0.0, self._end - time.monotonic())

    def section(self, name: str, make: Callable[[], Any]) -> Any:
        """Run a section unless the file has its outcome or the time is up; keep its outcome or its error.

        Returns the outcome or None.
        """
        kept = self.content.get(name)
        if kept is not None and not any(kept.get(lack) for lack in ("error", "skipped", "cut_off")):
            return kept
        if time.monotonic() > self._end:
            self.keep(name, {"skipped": "the time given with --minutes was up"})
            return None
        click.echo(f"{name} …", err=True)
        start = time.perf_counter()
        outcome = None
        try:
            outcome = self.content[name] = make()
        except Exception as error:
            self.content[name] = {"error": f"{type(error).__name__}: {error}"}
            click.echo(f"{name}: {error}", err=True)
        self.content.setdefault("seconds", {})[name] = round(time.perf_counter() - start, 1)
        self._write()
        return outcome

    def keep(self, name: str, value: Any) -> None:
        """Put a value into the file."""
        self.content[name] = value
        self._write()

    def _write(self) -> None:
        write_json(self.path, self.content)


@click.command()
@click.option("--model", default="himar-b", show_default=True, type=click.Choice(list(PRESETS)),
              help="Preset; random weights unless it is digits.")  # fmt: skip
@click.option("--device", default="cuda", show_default=True, type=click.Choice(["cuda", "cpu"]))
@click.option("--precision", default="fp16", show_default=True, type=click.Choice(["fp32", "fp16", "bf16"]))
@click.option("--batch", "batches", multiple=True, type=click.IntRange(1, 1024), default=(1, 8, 64, 128),
              show_default=True)  # fmt: skip
@click.option("--backend", "backends", multiple=True, default=("onnxruntime", "tensorrt", "tensorrt-rtx"),
              show_default=True, type=click.Choice(["onnxruntime", "tensorrt", "tensorrt-rtx"]))  # fmt: skip
@click.option("--repeats", default=6, show_default=True, type=click.IntRange(3), help="Timed runs of each side.")
@click.option("--tests/--no-tests", default=True, help="Run pytest -m gpu too.")
@click.option("--figure3/--no-figure3", default=True, help="Draw figure 3 for the first backend that works.")
@click.option("--train-batch", "train_batches", multiple=True, type=click.IntRange(1), default=(32, 128, 256),
              show_default=True, help="Images of a training step.")  # fmt: skip
@click.option("--minutes", default=60.0, show_default=True, type=FiniteRange(min=0),
              help="Time for all; every section is stopped after half of what is left.")  # fmt: skip
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False))
def main(
    model: str,
    device: str,
    precision: str,
    batches: tuple[int, ...],
    backends: tuple[str, ...],
    repeats: int,
    tests: bool,
    figure3: bool,
    train_batches: tuple[int, ...],
    minutes: float,
    out: Path,
) -> None:
    """Measure and test everything that needs a GPU, and write it to a JSON file."""
    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("this machine has no GPU that PyTorch can use; --device cpu tries the script.")
    out = out.absolute()  # sections run in the repository's folder
    out.parent.mkdir(parents=True, exist_ok=True)
    asked = {"model": model, "device": device, "precision": precision, "repeats": repeats}
    report = Report(out, minutes, asked)
    work = out.with_suffix(".work")

    def section(label: str, name: str, **arguments: Any) -> Any:
        return report.section(
            label, lambda: run_section(name, arguments, work / "sections", label, report.seconds_left / 2)
        )

    section("environment", "environment", device=device, command=["python", *sys.argv])
    section("copy", "copy", device=device)
    section("products", "products", device=device)
    built = {
        backend: section(
            f"bundle for {backend}", "bundle", work=str(work), model=model, precision=precision,
            max_batch=max(batches), backend=backend, device=device,
        )
        for backend in backends
    }  # fmt: skip
    ready = []
    for backend, outcome in built.items():
        if outcome is not None:
            bundle = outcome["backends"][backend]["bundle"]
            same = section(f"parity of {backend}", "parity", bundle=bundle, device=device)
            if same is not None and same["passed"]:
                ready.append(backend)

    def latencies(batch: int) -> None:
        for backend in ready:
            section(
                f"{backend} at batch {batch}", "latencies", built=built[backend], backend=backend, batch=batch,
                repeats=repeats, device=device, compiled=device == "cuda" and backend == ready[0],
            )  # fmt: skip

    def judge() -> None:
        report.keep("aims", aims(report.content, model, precision, backends))

    by_size = sorted(set(batches), reverse=True)
    latencies(by_size[0])
    judge()
    if tests:
        log = out.with_name("gpu-tests.log")
        report.section("tests", lambda: gpu_tests(log, report.seconds_left / 2))
    if figure3 and ready:
        minutes_left = 0.45 * report.seconds_left / 60  # it ends by itself, before it is stopped
        section(
            "figure 3", "figure3", out=str(out.with_name(f"{out.stem}-figure3.json")),
            configs=figure_models(model), work=str(work), device=device, precision=precision, backend=ready[0],
            batch=min(32, by_size[0]), repeats=repeats, whole=device == "cuda", minutes=minutes_left,
            command=["python", *sys.argv],
        )  # fmt: skip
    for batch in by_size[1:]:
        latencies(batch)
    judge()  # the aims' batch may be one of these
    half = "fp32" if device == "cpu" else "bf16"
    for compiled in (False, True) if device == "cuda" else (False,):
        for batch in train_batches:
            section(
                f"training at batch {batch}, {half}{', compiled' if compiled else ''}", "training",
                model=model, batch=batch, device=device, precision=half, compiled=compiled,
            )  # fmt: skip
    for each in report.content["aims"]:
        value = "" if each["value"] is None else f", {each['value']:.3g}"
        click.echo(f"{each['backend']}, {each['aim']}: {each['verdict']}{value}")
    click.echo(f"→ {out}")


def figure_models(model: str) -> list[str]:
    """Return a preset and the single scale of its size, where there is one."""
    single = f"mar-{model.split('-')[1]}" if model.startswith("himar-") else ""
    return [model, single] if single in PRESETS else [model]


if __name__ == "__main__":
    sys.exit(run_cli(main))
