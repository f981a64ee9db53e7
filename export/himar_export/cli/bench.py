"""Defines `himar-export bench`: its options, what it prints and writes, and its exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from himar.cli.options import config_option, weights_option
from himar_kernels.families.sampling_options import sampling_options
from himar_kernels.shared.console import FAILURE, require_extra
from himar_kernels.shared.files import require_writable_file, require_writable_folder
from himar_kernels.shared.options import (
    THREADS,
    THREADS_DEFAULT,
    FamilyCommand,
    FiniteRange,
    NamedPath,
    device_option,
    folder_option,
)
from himar_runtime import Bundle

from ..report import print_json
from .progress import progress_bar

ALL_COMPONENTS = "all"


@click.command(
    cls=FamilyCommand,
    epilog="Example: himar-export bench bundle --checkpoint model.pth --config himar-b --batch 1 --batch 8, or "
    "himar-export bench bundle --checkpoint model.pth --vae kl16.ckpt --component-eager all",
)
@click.argument("bundle", type=NamedPath())
@click.option("--checkpoint", required=True, type=NamedPath(), help="What the bundle was built from.")
@click.option("--config", callback=config_option, help="Preset or JSON file, as for build.")
@click.option("--vae", type=NamedPath(), help="KL-VAE checkpoint: time up to images, not latents.")
@click.option("--text", type=NamedPath(file_okay=False),
             help="Folder of the CLIP model: time from prompts on, not from contexts.")  # fmt: skip
@weights_option
@click.option("--batch", "batches", multiple=True, default=(1,), show_default=True, type=click.IntRange(1, 1024),
             help="Images at once; may be repeated.")  # fmt: skip
@click.option("--repeats", default=6, show_default=True, type=click.IntRange(3, 10_000),
             help="Timed runs of each side, in turns; p90, p95 and p99 need 10, 20 and 100.")  # fmt: skip
@click.option("--warm-up", "warm_limit", default=3.0, show_default=True, type=FiniteRange(min=0),
             help="Maximum seconds for a side to settle before it is timed.")  # fmt: skip
@click.option("--compile", "compiled", is_flag=True, help="Time torch.compile of the eager model too.")
@click.option("--components", is_flag=True, help="Time every component by itself too.")
@click.option("--component-eager", "eager_components", multiple=True, metavar="NAME",
             help="Also run this component with PyTorch in the engines' loop, to find the wrong or the slow one; all "
                  "tries each in turn; may be repeated.")  # fmt: skip
@click.option("--memory", is_flag=True, help="Measure each side's peak memory, in a process of its own.")
@sampling_options
@click.option("--device", default="cpu", show_default=True, callback=device_option, help="cpu, cuda or cuda:N.")
@click.option("--threads", type=THREADS, help=f"CPU threads of both sides; {THREADS_DEFAULT}.")
@click.option("--markdown", type=NamedPath(dir_okay=False), help="File for all tables as Markdown, written anew.")
@click.option("--plots", type=NamedPath(file_okay=False), callback=folder_option,
             help="Folder for three plots (PNG), written anew.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print every timing and the environment as JSON.")
def bench(as_json: bool, markdown: Path | None, plots: Path | None, **options: Any) -> int:
    """Time the engines of BUNDLE against the eager model: same weights, seeds, precision, boundary and threads.

    Outputs are compared first; what differs has no latency, and the exit code is 1. docs/benchmarking.md explains every
    option and number.
    """
    require_extra("export", "torch", "safetensors", "onnx", "onnxscript")
    if plots is not None:
        require_extra("plot", "matplotlib")
    if markdown is not None:
        require_writable_file(markdown)
    if plots is not None:
        require_writable_folder(plots)
    _require_components(options["bundle"], options["eager_components"])
    from ..bench.report import print_report, report_values, write_markdown
    from ..bench.run import BenchRequest, run_bench
    from ..bench.workload import Sources

    own = {field.name: options.pop(field.name) for field in fields(Sources) if field.name in options}
    kept = {field.name: options.pop(field.name) for field in fields(BenchRequest) if field.name in options}
    request = BenchRequest(Sources(**own, changes=options), command=("himar-export", *sys.argv[1:]), **kept)
    with progress_bar(as_json) as advance:
        report = run_bench(request, advance)
    if as_json:
        print_json(report_values(report))
    else:
        print_report(report)
    if markdown is not None:
        write_markdown(report, markdown)
    if plots is not None:
        from ..bench.plots import draw_all

        for path in draw_all(report, plots):
            click.echo(f"→ {path}", err=True)
    if report.differ:
        other = "" if report.built_from_it else " The bundle was built from another checkpoint: give that one."
        click.echo(f"error: outputs differ and were not timed: {'; '.join(report.differ)}.{other}", err=True)
    return FAILURE if report.differ else 0


def _require_components(path: Path, names: Sequence[str]) -> None:
    """Raise click.BadParameter for a name that is no component of the bundle, nor ALL."""
    if not names:
        return
    known = Bundle.open(path).manifest.components
    for name in names:
        if name not in (ALL_COMPONENTS, *known):
            raise click.BadParameter(
                f"{path} has no component {name!r}; it has {', '.join(known)}, and {ALL_COMPONENTS} tries each.",
                param_hint="'--component-eager'",
            )
