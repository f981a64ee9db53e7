"""Repeats the paper's figure 3 without its quality: seconds per image of Hi-MAR-B and MAR-B, eager and engines.

    python -m benchmarks.figure3.run --out docs/figure3/cpu.json
    python -m benchmarks.figure3.run --device cuda --precision fp16 --backend tensorrt --batch 128 --whole \
        --out h100.json
    python -m benchmarks.figure3.run --show --out docs/figure3/cpu.json

Weights are random, which times do not depend on, and engines' outputs are compared with the eager model's first. Whole
generations would take hours on a few cores: there seconds are composed from single calls (docs/benchmarking.md). The
record is kept after every call, and the same command continues it; the plot and the tables lie beside it. --show
prints the tables of a record.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from benchmarks.figure3.measure import measure_figure
from benchmarks.figure3.plot import draw
from benchmarks.figure3.record import Record, Request, read_record
from benchmarks.figure3.rows import rows_of
from benchmarks.figure3.tables import markdown
from himar.cli.options import config_option
from himar_kernels import InputError
from himar_kernels.shared.console import FAILURE, run_cli
from himar_kernels.shared.files import write_text
from himar_kernels.shared.options import THREADS, FiniteRange, NamedPath, device_option


def _configs(context: click.Context, parameter: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        config_option(context, parameter, name)
    return names


def make(out: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Measure with the fields of a Request, write the same files, and return what the record holds."""
    options = {**options, "work": Path(options["work"])}
    record = _make(out, Request(**options), lambda text: click.echo(text, err=True))
    return {**record.content, "cut_off": record.cut_off}


def _make(out: Path, request: Request, say: Callable[[str], None]) -> Record:
    record = measure_figure(request, out, say)
    if rows_of(record.content):
        draw(record.content, out.with_suffix(".png"))
        write_text(out.with_suffix(".md"), markdown(record.content))
    return record


def _page(path: Path) -> str:
    content = read_record(path)
    try:
        return markdown(content)
    except KeyError as lacking:
        raise InputError(
            f"{path} is a record of figure 3 without {lacking}; the command that made it adds it."
        ) from None


@click.command()
@click.option("--config", "configs", multiple=True, default=("himar-b", "mar-b"), show_default=True, callback=_configs,
              help="Preset or JSON file; may be repeated.")  # fmt: skip
@click.option(
    "--steps", multiple=True, type=click.IntRange(1, 4096), help="Steps of phase high; the figure's if not given."
)
@click.option("--device", default="cpu", show_default=True, callback=device_option, help="cpu, cuda or cuda:N.")
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(["fp32", "fp16", "bf16", "int8"]))
@click.option("--backend", default="onnxruntime", show_default=True,
              type=click.Choice(["onnxruntime", "tensorrt", "tensorrt-rtx"]))  # fmt: skip
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1, 1024), help="Images at once.")
@click.option("--repeats", default=6, show_default=True, type=click.IntRange(3, 10_000),
              help="Timed rounds of both sides; fewer than 6 leave every ratio inconclusive.")  # fmt: skip
@click.option("--shapes", default=3, show_default=True, type=click.IntRange(2, 4096),
              help="Most shapes of a component that are timed; times of others lie between them.")  # fmt: skip
@click.option("--whole", is_flag=True, help="Time whole generations too.")
@click.option("--compile", "compiled", is_flag=True, help="Time torch.compile of the eager model too.")
@click.option("--threads", type=THREADS, help="CPU threads of both sides; PyTorch's choice if not given.")
@click.option("--bundles", "work", type=NamedPath(file_okay=False), default=Path("build/figure3"), show_default=True,
              help="Folder of checkpoints and bundles, made where they are missing.")  # fmt: skip
@click.option("--minutes", default=60.0, show_default=True, type=FiniteRange(min=0),
              help="Start nothing new after this time; the same command continues.")  # fmt: skip
@click.option("--show", is_flag=True, help="Measure nothing: print the tables of the record at --out.")
@click.option("--out", required=True, type=NamedPath(dir_okay=False), help="Record (.json); .png and .md beside it.")
def main(out: Path, show: bool, **options: object) -> int:
    """Measure, and write the record, the plot and the tables."""
    if out.suffix != ".json":
        raise click.BadParameter(f"{out} does not end in .json.", param_hint="--out")
    if show:
        click.echo(_page(out), nl=False)
        return 0
    request = Request(command=("python", *sys.argv), **options)  # type: ignore[arg-type]
    record = _make(out, request, lambda text: click.echo(text, err=True))
    if record.cut_off:
        click.echo("the time given with --minutes was up; the same command continues.", err=True)
        return FAILURE
    click.echo(f"→ {out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
