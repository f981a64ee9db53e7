"""Defines the `himar-export` command. The verbs that need torch import it, so the others run without."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from himar.cli.options import config_option, weights_option
from himar_kernels.families.hi_mar.sampling import SamplingChanges
from himar_kernels.families.hi_mar.sampling_options import sampling_options
from himar_kernels.labels import MOST_LABELS
from himar_kernels.shared.console import require_extra, run_cli
from himar_kernels.shared.live_line import live_line
from himar_kernels.shared.options import (
    SEED,
    THREADS,
    THREADS_DEFAULT,
    NamedPath,
    device_option,
    images_option,
    label_option,
    npz_option,
)
from himar_runtime import Bundle, parse_manifest
from himar_runtime.bundle.manifest import MANIFEST_NAME

from ..bench.command import bench_command, bench_options
from ..cost.command import cost_options, inspect_cost, refuse_cost_options
from ..make.generate import GenerateRequest, generate_images
from .options import (
    case_option,
    engine_options,
    precision_pairs,
    take_engine_options,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="himar", prog_name="himar-export")
def cli() -> None:
    """Turn a Hi-MAR checkpoint into a bundle of engines, check it, and make images with it.

    Add --debug to any command to see the traceback of an error.
    """


@cli.command(epilog="Example: himar-export build model.pth --config himar-b --vae kl16.ckpt --fp16 --out bundle")
@click.argument("checkpoint", type=NamedPath())
@click.option("--config", callback=config_option,
              help="Preset (himar-b, himar-l, himar-h, digits) or a JSON file with heads and dit_heads.")  # fmt: skip
@click.option("--vae", type=NamedPath(), help="KL-VAE checkpoint; without it the bundle produces latents.")
@click.option("--fp32", "precision", flag_value="fp32", default=None, help="Float32 everywhere (default).")
@click.option("--fp16", "precision", flag_value="fp16", help="Matmuls in float16; norms and sums stay float32.")
@click.option("--bf16", "precision", flag_value="bf16", help="Matmuls in bfloat16; norms and sums stay float32.")
@click.option(
    "--int8", "precision", flag_value="int8",
    help="Matmuls of transformers and heads in int8, on a CPU; short chains of noisy steps lose quality.",
)  # fmt: skip
@click.option(
    "--precision", "component_precision", multiple=True, metavar="NAME=PRECISION", callback=precision_pairs,
    help="Precision of one component, for example vae_decoder=fp32; may be repeated.",
)  # fmt: skip
@click.option(
    "--backend", default="onnxruntime", show_default=True,
    type=click.Choice(["onnxruntime", "tensorrt", "tensorrt-rtx"]), help="What runs the bundle.",
)  # fmt: skip
@click.option(
    "--max-batch",
    default=64,
    show_default=True,
    type=click.IntRange(1, 1024),
    help="Maximum number of images in one run of the engines.",
)
@engine_options
@weights_option
@click.option("--out", required=True, type=NamedPath(), help="Folder to create.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def build(out: Path, precision: str | None, as_json: bool, **options: Any) -> None:
    """Export CHECKPOINT to a bundle, verify it against the eager model, and keep it only if it matches."""
    require_extra("export", "torch", "safetensors", "onnx", "onnxscript")
    from himar.device import use_threads

    from ..families.checks import family_checks
    from ..graph.precision_choice import check_precision
    from ..make.build import BuildRequest
    from ..make.build import build as run_build
    from ..report import print_outcome

    use_threads()
    precision = check_precision(precision or "fp32", "the bundle")
    engine, cache = take_engine_options(options)
    command = ("himar-export", *sys.argv[1:])
    request = BuildRequest(out=out, command=command, precision=precision, engine_options=engine, cache=cache, **options)
    with _progress(as_json) as advance:
        outcome = run_build(request, advance)
    print_outcome(outcome.comparisons, outcome.ran, out, "the eager model", as_json)
    # Not Bundle.open, which would hash the whole bundle once more.
    manifest = parse_manifest((out / MANIFEST_NAME).read_bytes(), str(out))
    advice = family_checks(manifest.family).advice(manifest)
    if advice is not None and not as_json:
        click.echo(advice)
    emulated = "bf16" in (precision, *options["component_precision"].values()) and " on cpu" in outcome.ran
    if emulated and not as_json:
        click.echo(
            "bfloat16 was verified in emulation (its rounding, float32 arithmetic): ONNX Runtime has no bfloat16 "
            "matmuls for the CPU. Such a bundle needs a GPU."
        )


@cli.command(epilog="Example: himar-export refit bundle model-finetuned.pth --vae kl16.ckpt --out refitted")
@click.argument("bundle", type=NamedPath())
@click.argument("checkpoint", type=NamedPath())
@click.option("--vae", type=NamedPath(), help="KL-VAE checkpoint, where the bundle has a decoder.")
@weights_option
@click.option("--out", required=True, type=NamedPath(), help="Folder to create.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def refit(as_json: bool, **options: Any) -> None:
    """Make a bundle like BUNDLE with the weights of CHECKPOINT, without building its engines again."""
    require_extra("export", "torch", "safetensors", "onnx", "onnxscript")
    from himar.device import use_threads

    from ..make.refit import RefitRequest
    from ..make.refit import refit as run_refit
    from ..report import print_outcome

    use_threads()
    with _progress(as_json) as advance:
        outcome = run_refit(RefitRequest(command=("himar-export", *sys.argv[1:]), **options), advance)
    print_outcome(outcome.comparisons, outcome.ran, options["out"], "the eager model", as_json)


@cli.command(epilog="Example: himar-export verify bundle --recording run.npz --case guided")
@click.argument("bundle", type=NamedPath())
@click.option("--recording", type=NamedPath(), help="Recorded run to replay instead of the self-test.")
@click.option("--case", help="Case of the recording; all of them if not given.")
@click.option("--device", default="cpu", show_default=True, callback=device_option, help="cpu, cuda or cuda:N.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def verify(bundle: Path, recording: Path | None, case: str | None, device: str, as_json: bool) -> int:
    """Replay the self-test of BUNDLE, or a recorded run, and compare: exit code 0 only if everything matches."""
    from ..report import print_outcome
    from ..verify.verify import verify_recording, verify_selftest, what_ran

    if recording is None and case is not None:
        raise click.UsageError("--case needs --recording.")
    opened = Bundle.open(bundle)
    ran = what_ran(opened.manifest.backend.name, device)
    if recording is None:
        comparisons = verify_selftest(opened, device)
    else:
        comparisons = verify_recording(opened, recording, case, device)
    print_outcome(comparisons, ran, bundle, str(recording or "its self-test"), as_json)
    return 0 if all(c.passed is not False for c in comparisons) else 1


@cli.command(
    epilog="Example: himar-export inspect bundle, or "
    "himar-export inspect --cost --config himar-b --fp16 --batch 128 --peak-tflops 790 --peak-gbps 4800"
)
@click.argument("path", required=False, type=NamedPath())
@cost_options
@click.option("--json", "as_json", is_flag=True, help="Print the manifest, the recipe or the cost as JSON.")
def inspect(path: Path | None, as_json: bool, cost: bool, **options: Any) -> None:
    """Show what is in a bundle and where its bytes go, or how a generated PNG was made, or what a run costs.

    All options but --json go with --cost; those of steps and guidance are those of generate.
    """
    from ..inspect import inspect_path

    if cost:
        inspect_cost(path, as_json, options)
        return
    refuse_cost_options(options)
    if path is None:
        raise click.UsageError("Missing argument 'PATH'; only --cost --config needs none.")
    inspect_path(path, as_json)


@cli.command(epilog="Example: himar-export generate bundle --labels 207,360 --count 4 --seed 7 --out images.png")
@click.argument("bundle", type=NamedPath())
@click.option(
    "--labels",
    required=True,
    callback=label_option,
    help="Classes: numbers, ranges and names, for example 1,10-19,cat.",
)
@click.option(
    "--count", default=1, show_default=True, type=click.IntRange(1, MOST_LABELS), help="Images of each class."
)
@click.option("--seed", default=0, show_default=True, type=SEED, help="Same seed, same images.")
@sampling_options
@click.option(
    "--out", required=True, type=NamedPath(), callback=images_option,
    help=".png: one image, or a grid with a row per class; .npz: latents; otherwise a folder of PNGs.",
)  # fmt: skip
@click.option("--device", default="cpu", show_default=True, callback=device_option, help="cpu, cuda or cuda:N.")
@click.option("--threads", type=THREADS, help=f"CPU threads of the engines; {THREADS_DEFAULT}.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def generate(
    bundle: Path,
    labels: list[int | str],
    count: int,
    seed: int,
    sampling_name: str | None,
    guidance: float | None,
    out: Path,
    device: str,
    threads: int | None,
    as_json: bool,
    **changes: Any,
) -> None:
    """Make images of classes with the engines of BUNDLE."""
    from ..report import print_json

    request = GenerateRequest(
        bundle, labels, out, count, seed, sampling_name, guidance, cast(SamplingChanges, changes), device, threads
    )
    with _progress(as_json) as advance:
        outcome = generate_images(request, advance)
    if as_json:
        print_json(outcome)
    else:
        Console().print(
            f"{outcome['images']} {'images' if outcome['images'] > 1 else 'image'} in {outcome['seconds']:.1f} s "
            f"({outcome['seconds'] / outcome['images']:.3f} s each) → {outcome['out']}",
            highlight=False,
            markup=False,
        )


@cli.command(epilog="Example: himar-export record model.pth --config himar-b --labels 1,2 --seed 3 --out run.npz")
@click.argument("checkpoint", type=NamedPath())
@click.option("--config", callback=config_option, help="Preset or JSON file, as for build.")
@click.option("--vae", type=NamedPath(), help="KL-VAE checkpoint, to record its decoder too.")
@weights_option
@click.option(
    "--labels",
    required=True,
    callback=label_option,
    help="Classes: numbers, ranges and names, for example 1,10-19,cat.",
)
@click.option("--seed", default=0, show_default=True, type=SEED, help="Seed of the recorded draws.")
@click.option("--case", default="run", show_default=True, callback=case_option, help="Name of the case.")
@sampling_options
@click.option("--out", required=True, type=NamedPath(), callback=npz_option, help="The .npz to write.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def record(as_json: bool, **options: Any) -> None:
    """Run the eager model of CHECKPOINT and write every draw and result, for `verify --recording`."""
    require_extra("export", "torch", "safetensors", "onnx", "onnxscript")
    from himar.device import use_threads

    from ..make.record import record_run
    from ..report import print_json

    use_threads()
    with _progress(as_json) as advance:
        arrays = record_run(advance=advance, **options)
    if as_json:
        print_json({"out": str(options["out"]), "arrays": len(arrays)})
    else:
        Console().print(f"{len(arrays)} arrays → {options['out']}", highlight=False, markup=False)


@cli.command(epilog="Example: himar-export bench bundle --checkpoint model.pth --config himar-b --batch 1 --batch 8")
@click.argument("bundle", type=NamedPath())
@bench_options
def bench(**options: Any) -> int:
    """Time the engines of BUNDLE against the eager model: same weights, seeds, precision, boundary and threads.

    Outputs are compared first; what differs has no latency, and the exit code is 1. docs/benchmarking.md explains every
    option and number.
    """
    return bench_command(_progress, **options)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run_cli(cli, argv)


@contextmanager
def _progress(silent: bool) -> Iterator[Callable[[str, float], None]]:
    """Draw a progress bar on stderr, none under --json; yields advance(text, fraction)."""
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(),
        console=Console(stderr=True), disable=silent, transient=True, redirect_stdout=sys.stdout.isatty(),
    )  # fmt: skip
    with live_line(bar):
        task = bar.add_task("starting", total=1.0)
        yield lambda text, fraction: bar.update(task, description=text, completed=fraction)
