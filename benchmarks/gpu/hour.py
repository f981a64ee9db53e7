"""Measures and tests on a GPU all that needs one, piece by piece: one record, which the same command goes on with.

    python -m benchmarks.gpu.hour --prepare --bundles bundles            # beforehand; needs no GPU
    python -m benchmarks.gpu.hour --bundles bundles --out h100.json      # nine minutes; again until nothing is left
    python -m benchmarks.gpu.page h100.json                              # docs/gpu/h100.md

In this order: the device's peaks; every component's call, outputs compared first, with its kernels; the heads' calls in
place, recorded, without our operators, in fp8; whole generations at every batch, with the paper's sampler and with
forecasts; their memory; `pytest -m gpu` by file; the C++ runtime's tests and times; then the aims are judged. Every
figure is written at once. Every piece is a process, whose log lies in RECORD.logs; one that was cut off is done again,
and what is measured or failed never is, unless --again asks for it. The exit code is 1 when a piece is left or failed,
and when outputs differ.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import click

from benchmarks.gpu.aims import aims, figures_of
from benchmarks.gpu.build import build_bundles
from benchmarks.gpu.pieces import PRECISIONS, Hour, Piece, pieces
from benchmarks.gpu.process import run_piece
from benchmarks.gpu.record import SETTLED, Record
from himar.families.hi_mar.presets import PRESETS
from himar_export.bench.environment import processor
from himar_export.bench.workload import require_gpu
from himar_export.graph.precision_choice import Precision
from himar_export.make.build import BACKENDS
from himar_kernels import InputError
from himar_kernels.shared.console import FAILURE, run_cli
from himar_kernels.shared.files import require_writable_file, require_writable_folder
from himar_kernels.shared.options import FiniteRange, NamedPath, device_option

DRY_RUN: Mapping[str, Any] = {
    "model": "digits", "device": "cpu", "batches": (2,), "tests": ("tests/kernels/test_cuda_device.py",),
    "changes": {"low_steps": 2, "high_steps": 1, "low_diffusion_steps": 4, "high_diffusion_steps": 4},
    "seconds": 0.0, "repeats": 3, "compiled": False, "decodes": False,
    "steps": ("in place", "recorded", "without our operators"),
}  # fmt: skip
LEAST_SECONDS = 20.0
"""Of a call's minutes, below which no other piece is begun."""


def run_hour(hour: Hour, record: Record, minutes: float) -> None:
    """Run the pieces that the record lacks, until the minutes are over."""
    end, number = time.monotonic() + 60 * minutes, 0
    for piece in pieces(hour, record):
        if record.state(piece.name) in SETTLED:
            continue
        if lack := piece.missing():
            record.begin(piece.name)
            record.end(piece.name, "missing", lack)
            continue
        left = end - time.monotonic()
        if number and left < LEAST_SECONDS:
            record.plan(piece.name)
            continue
        click.echo(f"{piece.name} …", err=True)
        run_piece(record, piece, left, whole=number == 0)
        number += 1
        _say(record, piece)


def _say(record: Record, piece: Piece) -> None:
    own = record.content["pieces"][piece.name]
    reason = f": {own['reason']}" if "reason" in own else ""
    click.echo(f"  {own['state']} after {own['seconds'][-1]} s{reason}", err=True)


def prepare(model: str, bundles: Path, batch: int, backends: tuple[str, ...], device: str) -> int:
    """Build what the pieces need, or find it; say what was not built, and return the exit code."""
    code = 0
    for precision in PRECISIONS:
        if precision not in get_args(Precision):
            click.echo(f"{precision}: this version of himar does not build it.", err=True)
            continue
        chosen = backends if precision == PRECISIONS[0] else ("onnxruntime",)
        for backend, found in build_bundles(bundles, model, precision, batch, chosen, device)["backends"].items():
            click.echo(f"{precision} for {backend}: {found.get('error') or found['bundle']}", err=True)
            code = FAILURE if "error" in found else code
    return code


def left_over(record: Record) -> list[str]:
    """Return a sentence for each kind of piece that is not done, for failed tests, and for outputs that differ."""
    said = dict.fromkeys(("waiting", "running", "cut off"), "left for the next call")
    said |= {"failed": "failed", "too long": "had all minutes and kept no figure"}
    names: dict[str, list[str]] = {}
    for name, own in record.content["pieces"].items():
        if own["state"] in said:
            names.setdefault(said[own["state"]], []).append(name)
    found = [f"{words}: {'; '.join(pieces)}." for words, pieces in names.items()]
    found += [f"tests failed: {'; '.join(failed)}."] if (failed := failed_tests(record)) else []
    wrong = [each for each in record.content["aims"] if each["verdict"] == "missed" and each["value"] is None]
    return found + [f"{each['aim']}: missed, {each['from']}." for each in wrong]


def failed_tests(record: Record) -> list[str]:
    """Return the pieces of tests that came to their end and did not all pass."""
    found = [(piece, value) for piece, _, value in figures_of(record.content, "tests, ")]
    found += [(piece, value) for piece, _, value in figures_of(record.content, "C++ tests") if not value["skipped"]]
    return [piece for piece, value in found if value["exit_code"] not in (0, 5)]


def device_name(device: str) -> str:
    """Return the name of the GPU, or of the processor."""
    if device == "cpu":
        return processor()
    index = device.partition(":")[2] or "0"
    query = ["nvidia-smi", f"--id={index}", "--query-gpu=name", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(f"nvidia-smi does not name {device!r} ({error}); choose a GPU that is there.") from error


@click.command()
@click.option("--out", type=NamedPath(dir_okay=False), help="The record; one that is there is continued.")
@click.option("--bundles", default=Path("build/gpu"), show_default=True, type=NamedPath(file_okay=False),
              help="Folder of the bundles and checkpoints that --prepare makes.")  # fmt: skip
@click.option("--prepare", "preparing", is_flag=True, help="Make the bundles, and end; needs no GPU for onnxruntime.")
@click.option("--model", default="himar-b", show_default=True, type=click.Choice(list(PRESETS)),
              help="Preset; random weights unless it is digits.")  # fmt: skip
@click.option("--device", default="cuda", show_default=True, callback=device_option, help="cpu, cuda or cuda:N.")
@click.option("--batch", "batches", multiple=True, type=click.IntRange(1, 1024), default=(1, 8, 64, 128),
              show_default=True, help="Images of whole generations; of calls the largest.")  # fmt: skip
@click.option("--backend", "backends", multiple=True, default=("onnxruntime",), show_default=True,
              type=click.Choice(list(BACKENDS)))  # fmt: skip
@click.option("--tests", multiple=True, default=("tests",), show_default=True, help="Files or folders of pytest's.")
@click.option("--cpp", default=Path("build/cpp/release"), show_default=True, type=NamedPath(file_okay=False),
              help="Build folder of the C++ runtime.")  # fmt: skip
@click.option("--minutes", default=9.0, show_default=True, type=FiniteRange(min=0), help="Time of this call.")
@click.option("--again", multiple=True, metavar="PIECE", help="Forget a piece of the record, and measure it again.")
@click.option("--dry-run", is_flag=True, help="Every piece on the CPU, with the digits and next to no steps.")
@click.pass_context
def main(
    context: click.Context,
    out: Path | None,
    bundles: Path,
    preparing: bool,
    model: str,
    device: str,
    batches: tuple[int, ...],
    backends: tuple[str, ...],
    tests: tuple[str, ...],
    cpp: Path,
    minutes: float,
    again: tuple[str, ...],
    dry_run: bool,
) -> int:
    """Measure and test everything that needs a GPU, and write it to a JSON file."""
    given: dict[str, Any] = {"model": model, "device": device, "batches": batches, "tests": tests}
    if dry_run:
        for name in given:
            if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE and name != "tests":
                raise click.UsageError(f"--dry-run chooses --{name.removesuffix('es')} itself; leave it out.")
            if context.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE:
                given[name] = DRY_RUN[name]
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # PyTorch's threads would spin while other processes work
        given |= {name: value for name, value in DRY_RUN.items() if name not in given}
    hour = Hour(bundles=bundles.absolute(), backends=backends, cpp=cpp.absolute(), **given)
    if preparing:
        return prepare(hour.model, hour.bundles, max(hour.batches), hour.backends, hour.device)
    if out is None:
        raise click.UsageError("--out is missing: the record that this writes, or goes on with.")
    require_gpu(hour.device)
    require_writable_folder(out.absolute().parent)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    require_writable_file(out)
    asked = {"model": hour.model, "device": hour.device, "machine": device_name(hour.device),
             "batches": sorted(set(hour.batches)), "backends": list(hour.backends), "dry_run": dry_run}  # fmt: skip
    record = Record(out.absolute(), asked)
    record.forget(again)
    run_hour(hour, record, minutes)
    record.judge(aims(record.content))
    for each in record.content["aims"]:
        value = "" if each["value"] is None else f", {each['value']:.3g}"
        click.echo(f"{each['aim']}: {each['verdict']}{value}")
    left = left_over(record)
    for line in left:
        click.echo(line, err=True)
    click.echo(f"→ {out}")
    return FAILURE if left else 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
