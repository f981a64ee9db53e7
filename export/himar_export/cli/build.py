"""Defines `himar-export build` and `refit`: bundles from checkpoints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from himar.cli.options import config_option, weights_option
from himar_kernels.shared.console import require_extra
from himar_kernels.shared.options import NamedPath
from himar_runtime import parse_manifest
from himar_runtime.bundle.manifest import MANIFEST_NAME

from ..report import print_outcome
from .options import engine_options, fp32_layers, precision_pairs, take_engine_options
from .progress import progress_bar


@click.command(epilog="Example: himar-export build model.pth --config himar-b --vae kl16.ckpt --fp16 --out bundle")
@click.argument("checkpoint", type=NamedPath())
@click.option("--config", callback=config_option,
              help="Preset (himar-b, digits, hmar-d16, …) or a JSON file with what shapes cannot tell.")  # fmt: skip
@click.option("--vae", type=NamedPath(), help="KL-VAE checkpoint; without it the bundle produces latents.")
@click.option("--text", type=NamedPath(), help="Folder of a CLIP model, to take prompts; without it contexts alone.")
@click.option("--fp32", "precision", flag_value="fp32", default=None, help="Float32 everywhere (default).")
@click.option("--fp16", "precision", flag_value="fp16", help="Matmuls in float16; norms and sums stay float32.")
@click.option("--bf16", "precision", flag_value="bf16", help="Matmuls in bfloat16; norms and sums stay float32.")
@click.option(
    "--int8", "precision", flag_value="int8",
    help="Matmuls of transformers and heads in int8, on a CPU; short chains of noisy steps lose quality.",
)  # fmt: skip
@click.option(
    "--fp8", "precision", flag_value="fp8",
    help="As --fp16, with modulations and feed-forwards of DiT heads and transformers in fp8 (e4m3), from sm_89 on.",
)  # fmt: skip
@click.option(
    "--precision", "component_precision", multiple=True, metavar="NAME=PRECISION", callback=precision_pairs,
    help="Precision of one component, for example vae_decoder=fp32; may be repeated.",
)  # fmt: skip
@click.option(
    "--fp32-layers", multiple=True, metavar="NAME=LAYER,…|FILE", callback=fp32_layers,
    help="Layers of one component that stay in float32, or the JSON of `debug`; may be repeated.",
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
@click.option("--held-modulations", is_flag=True, help="Let requests hold a DiT head's modulations.")
@click.option("--editing", is_flag=True, help="Let a bundle of Hi-MAR edit images; others edit anyway. Takes --vae.")
@click.option(
    "--memory/--no-memory", default=True, show_default=True,
    help="Measure what the engines take in memory, on a CPU and on a GPU if there is one, to predict it at loading.",
)  # fmt: skip
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

    use_threads()
    precision = check_precision(precision or "fp32", "the bundle")
    engine, cache = take_engine_options(options)
    command = ("himar-export", *sys.argv[1:])
    request = BuildRequest(out=out, command=command, precision=precision, engine_options=engine, cache=cache, **options)
    with progress_bar(as_json) as advance:
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


@click.command(epilog="Example: himar-export refit bundle model-finetuned.pth --vae kl16.ckpt --out refitted")
@click.argument("bundle", type=NamedPath())
@click.argument("checkpoint", type=NamedPath())
@click.option("--vae", type=NamedPath(), help="KL-VAE checkpoint, where the bundle has a decoder.")
@click.option("--text", type=NamedPath(), help="Folder of a CLIP model, where the bundle has a text tower.")
@weights_option
@click.option("--out", required=True, type=NamedPath(), help="Folder to create.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def refit(as_json: bool, **options: Any) -> None:
    """Make a bundle like BUNDLE with the weights of CHECKPOINT, without building its engines again."""
    require_extra("export", "torch", "safetensors", "onnx", "onnxscript")
    from himar.device import use_threads

    from ..make.refit import RefitRequest
    from ..make.refit import refit as run_refit

    use_threads()
    with progress_bar(as_json) as advance:
        outcome = run_refit(RefitRequest(command=("himar-export", *sys.argv[1:]), **options), advance)
    print_outcome(outcome.comparisons, outcome.ran, options["out"], "the eager model", as_json)
