"""Defines `himar-export inspect`: what is in a bundle and where its bytes go, how a PNG was made, what a run costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from himar.cli.options import config_option
from himar_kernels.families.sampling_options import step_options
from himar_kernels.shared.options import FamilyCommand, FiniteRange, NamedPath
from himar_runtime import Bundle, ComponentSpec, TensorSpec, read_recipes
from himar_runtime.engines.ort.packed import keeps_packed, packed_bytes, packed_directory
from himar_runtime.engines.ort.session import onnxruntime
from himar_runtime.engines.tensorrt.library import BUILDS

from ..families.checks import family_checks
from ..report import print_json, readable
from .options import precision_options

TENSORRT_BACKENDS = tuple(BUILDS)
_KINDS = ("matmul", "convolution", "attention", "normalization")

# What describes a model that is not a bundle: a bundle has its own.
_MODEL_OPTIONS = ("config", "vae", "precision", "component_precision")

_POSITIVE = FiniteRange(min=0, min_open=True)
_BATCH = click.IntRange(1, 2**20)
"""More is a typing error: no device holds so many at once."""


@click.command(
    cls=FamilyCommand,
    epilog="Example: himar-export inspect bundle, or "
    "himar-export inspect --cost --config himar-b --fp16 --batch 128 --peak-tflops 790 --peak-gbps 4800",
)
@click.argument("path", required=False, type=NamedPath())
@click.option("--cost", is_flag=True, help="Show a run's operations, bytes and shortest possible time instead.")
@click.option("--memory", is_flag=True, help="Show the memory that loading and running a bundle takes instead.")
@click.option("--config", callback=config_option, help="--cost of a preset or JSON file, without a bundle.")
@click.option(
    "--vae", type=NamedPath(),
    help="--cost with --config: KL-VAE checkpoint; KL-16 if not given, where the tokens are KL-16's.",
)  # fmt: skip
@precision_options("--cost with --config")
@click.option("--batch", type=_BATCH, help="--cost, --memory: images at once; 1 if not given.")
@click.option("--lanes", type=click.IntRange(1, 64), help="--memory: lanes that run at once; 1 if not given.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="--memory: where it is loaded; cpu if not given.")
@click.option("--peak-tflops", type=_POSITIVE,
             help="--cost: TFLOP/s of the device at best, for the shortest time.")  # fmt: skip
@click.option("--peak-gbps", type=_POSITIVE,
             help="--cost: GB/s of its memory at best, for the shortest time.")  # fmt: skip
@step_options
@click.option("--json", "as_json", is_flag=True, help="Print the manifest, the recipe, the cost or the memory as JSON.")
def inspect(path: Path | None, as_json: bool, cost: bool, memory: bool, **options: Any) -> None:
    """Show what is in a bundle and where its bytes go, or how a generated PNG was made, or what a run costs.

    All options but --json go with --cost or --memory; those of steps and guidance are those of generate.
    """
    if cost and memory:
        raise click.UsageError("--cost and --memory are given; they are two reports: ask for one of them.")
    if memory:
        _inspect_memory(path, as_json, options)
        return
    if cost:
        _refuse_options({name: options.pop(name) for name in ("lanes", "device")}, "--memory")
        _inspect_cost(path, as_json, options)
        return
    _refuse_options({name: options.pop(name) for name in ("lanes", "device")}, "--memory")
    _refuse_options(options, "--cost")
    if path is None:
        raise click.UsageError("Missing argument 'PATH'; only --cost --config needs none.")
    _inspect_path(path, as_json)


def _inspect_cost(path: Path | None, as_json: bool, options: dict[str, Any]) -> None:
    """Print the cost of a run from a bundle or of a configuration. Raises click.UsageError, and what both raise."""
    from ..cost.cost import Peaks
    from ..cost.report import print_costs
    from ..cost.request import bundle_request, config_request

    tflops, gbps = options.pop("peak_tflops"), options.pop("peak_gbps")
    peaks = Peaks(None if tflops is None else 1e12 * tflops, None if gbps is None else 1e9 * gbps)
    options["batch"] = options["batch"] or 1
    model = {name: options.pop(name) for name in _MODEL_OPTIONS}
    if path is None and model["config"] is None:
        raise click.UsageError("--cost needs a bundle, or --config with a preset or a JSON file.")
    if path is None:
        request = config_request(
            model["config"], model["vae"], model["precision"] or "fp32", model["component_precision"], **options
        )
    else:
        for name, value in model.items():
            if value:
                raise click.UsageError(
                    f"{_spelled(name, value)} describes a model without a bundle, but the bundle {path} has its own; "
                    f"leave one of them out."
                )
        request = bundle_request(path, **options)
    print_costs(request, peaks, as_json)


def _inspect_memory(path: Path | None, as_json: bool, options: dict[str, Any]) -> None:
    """Print the memory that a bundle takes. Raises click.UsageError, BundleError and InputError."""
    from ..memory.report import print_memory

    batch, lanes, device = (options.pop(name) for name in ("batch", "lanes", "device"))
    _refuse_options(options, "--cost")
    if path is None:
        raise click.UsageError("Missing argument 'PATH'; --memory is of a bundle.")
    print_memory(Bundle.open(path), batch or 1, lanes or 1, device or "cpu", as_json)


def _refuse_options(options: dict[str, Any], report: str) -> None:
    """Raise click.UsageError if an option of a report is given without it."""
    for name, value in options.items():
        if value not in (None, {}, ()):
            raise click.UsageError(f"{_spelled(name, value)} needs {report}.")


def _spelled(name: str, value: Any) -> str:
    """Return an option as it is written on the command line, from its parameter's name and value."""
    if name == "precision":
        return f"--{value}"
    return "--" + name.removeprefix("component_").removesuffix("_name").replace("_", "-")


def _inspect_path(path: Path, as_json: bool) -> None:
    """Print a bundle's tables (its hashes are checked), or a PNG's recipe. Raises BundleError or InputError."""
    if path.suffix.lower() == ".png" and path.is_file():
        recipes = [recipe.to_dict() for recipe in read_recipes(path)]
        if as_json:
            print_json(recipes if len(recipes) > 1 else recipes[0])
        else:
            _print_recipes(path, recipes)
        return
    bundle = Bundle.open(path)
    if as_json:
        print_json(bundle.manifest.raw)
        return
    console = Console()
    _print_summary(console, bundle)
    console.print(_components(bundle))
    if bundle.manifest.backend.name in TENSORRT_BACKENDS:
        console.print(engine_table(bundle))
        for note in engine_notes(bundle):
            console.print(note, highlight=False, markup=False, soft_wrap=True)
    for table in (_sizes(bundle), _files(bundle), _sampling(bundle)):
        console.print(table)


def _print_summary(console: Console, bundle: Bundle) -> None:
    manifest = bundle.manifest
    provenance = manifest.provenance
    total = sum(entry.bytes for entry in manifest.files.values())
    lines = [
        f"{bundle.root}  ({readable(total)}, schema {manifest.schema_version}, himar {manifest.himar_version})",
        *family_checks(manifest.family).describe(manifest),
        f"engines    {manifest.backend.name} {manifest.backend.version}, up to {manifest.max_batch} images a run",
    ]
    if manifest.backend.name in TENSORRT_BACKENDS:
        lines.append(f"for        {built_for(manifest.raw['backend'])}")
    if manifest.backend.name == "onnxruntime" and keeps_packed():
        kept = packed_bytes(bundle, onnxruntime())
        lines.append(
            f"packed     {len(kept)} of {len(manifest.components)} components, {readable(sum(kept.values()))} in "
            f"{packed_directory()}"
        )
    if "verification_ran" in manifest.raw:
        lines.append(f"verified   {manifest.raw['verification_ran']}")
    for name in ("checkpoint", "vae", "text"):
        if name in provenance:
            lines.append(f"{name:10} {provenance[name]['file']}  sha256 {provenance[name]['sha256'][:16]}…")
    if "tokenizer" in manifest.raw:
        lines.append(_tokenizer(manifest.raw["tokenizer"]))
    if "vae_decoder" not in manifest.components:
        lines.append("no VAE decoder: this bundle produces latents, not images")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _tokenizer(entry: Mapping[str, Any]) -> str:
    repair = ", text repaired first" if entry["repairs_text"] else ""
    rows = f"rows of {entry['length']} padded with {entry['padding']}"
    return f"tokenizer  CLIP's, {entry['end'] + 1} tokens, {rows}{repair}"


def _components(bundle: Bundle) -> Table:
    table = Table(title="Components", title_justify="left")
    table.add_column("component", no_wrap=True)
    table.add_column("precision", no_wrap=True)
    for heading in ("inputs", "outputs", "axes: min…max"):
        table.add_column(heading, overflow="fold")
    for name, spec in bundle.manifest.components.items():
        axes = ", ".join(f"{axis} {low}…{high}" for axis, (low, _, high) in spec.profile.items())
        table.add_row(name, spec.precision, _tensors(spec.inputs), _tensors(spec.outputs), axes)
    return table


def _tensors(specs: tuple[TensorSpec, ...]) -> str:
    return "\n".join(f"{spec.name} ({', '.join(map(str, spec.shape))})" for spec in specs)


def _sizes(bundle: Bundle) -> Table:
    """Weights of each component by part. What two components share stands on disk once."""
    table = Table(title="Weights by part", title_justify="left")
    table.add_column("component")
    table.add_column("part")
    for heading in ("bytes", "of them shared"):
        table.add_column(heading, justify="right")
    everything = shared = 0
    for name, spec in bundle.manifest.components.items():
        parts = _parts(bundle, spec)
        sizes = sum(part["bytes"] for part in parts), sum(part["shared_bytes"] for part in parts)
        everything, shared = everything + sizes[0], shared + sizes[1]
        for part in sorted(parts, key=lambda part: -part["bytes"]):
            if part["bytes"] >= sizes[0] / 100:
                table.add_row(name, escape(part["name"]), readable(part["bytes"]), readable(part["shared_bytes"]))
                name = ""
        table.add_row("", "total", readable(sizes[0]), readable(sizes[1]), style="bold", end_section=True)
    table.add_row("all", "if each had its own copy", readable(everything), readable(shared), style="bold")
    stored = sum(entry.bytes for name, entry in bundle.manifest.files.items() if not name.endswith(".npz"))
    table.add_row("", "on disk, shared ones once", readable(stored), "", style="bold")
    return table


def _parts(bundle: Bundle, spec: ComponentSpec) -> list[dict[str, Any]]:
    return list(bundle.manifest.raw["components"][spec.name].get("parts", []))


def _files(bundle: Bundle) -> Table:
    table = Table(title="Files", title_justify="left")
    table.add_column("file")
    table.add_column("bytes", justify="right")
    table.add_column("sha256")
    for name, entry in sorted(bundle.manifest.files.items(), key=lambda item: -item[1].bytes):
        table.add_row(escape(name), readable(entry.bytes), f"{entry.sha256[:16]}…")
    return table


def _sampling(bundle: Bundle) -> Table:
    table = Table(title="Sampling, default first", title_justify="left")
    settings = family_checks(bundle.manifest.family).settings(bundle.manifest)
    table.add_column("")
    for name in settings:
        table.add_column(escape(name), justify="right")
    for field in next(iter(settings.values())):
        table.add_row(field, *(str(values[field]) for values in settings.values()))
    return table


def _print_recipes(path: Path, recipes: list[dict[str, Any]]) -> None:
    console = Console()
    first = recipes[0]
    console.print(f"{path}: {len(recipes)} {'images' if len(recipes) > 1 else 'image'}", highlight=False, markup=False)
    for key in ("seed", "bundle", "himar_version"):
        console.print(f"{key:14} {first[key]}", highlight=False, markup=False)
    for key, value in first["sampling"].items():
        console.print(f"{key:22} {value}", highlight=False, markup=False)
    for key, value in first.get("edit", {}).items():
        said = f"sha256 {value[:16]}…" if key in ("image", "mask") else str(value)
        console.print(f"edited {key:7} {said}", highlight=False, markup=False)
    for recipe in (each for each in recipes if "prompt" in each):
        console.print(f"{recipe['index']}: {recipe['prompt']}", highlight=False, markup=False, soft_wrap=True)
    if "prompt" in first:
        return
    images = ", ".join(f"{recipe['index']}:{_shown(recipe)}" for recipe in recipes)
    console.print(f"index:label    {images}", highlight=False, markup=False)


def _shown(recipe: Mapping[str, Any]) -> str:
    if "context_sha256" in recipe:
        return f"context {recipe['context_sha256'][:16]}…"
    return "none" if recipe["label"] is None else str(recipe["label"])


def built_for(backend: Mapping[str, Any]) -> str:
    """Say in words which GPUs and library versions a manifest's `backend` entry was built for."""
    least = backend.get("least_compute_capability")
    if least and "compute_capabilities" in backend:
        gpus = f"the GPU generations that its builder covers by default, from compute capability {least} on"
    elif least:
        gpus = f"GPUs of compute capability {least} and later"
    elif backend.get("compute_capabilities"):
        gpus = f"GPUs of compute capability {', '.join(backend['compute_capabilities'])}"
    elif backend.get("compute_capability"):
        gpus = f"GPUs of compute capability {backend['compute_capability']} ({backend.get('gpu') or 'unnamed'})"
    else:
        gpus = "the GPU generations that its builder covers by default"
    library = "this version and later ones" if backend.get("version_compatible") else "this version alone"
    return f"{gpus}; {library}{'; weights can be refitted' if backend.get('refittable') else ''}"


def engine_table(bundle: Bundle) -> Table:
    """Return one row per component: its operations by precision, as read back from what was built."""
    table = Table(title="Engines: operations by precision, as built", title_justify="left")
    table.add_column("component", no_wrap=True)
    for heading in ("matmul", "conv", "attn", "norms"):
        table.add_column(heading, no_wrap=True)
    for heading in ("bytes", "built"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, spec in bundle.manifest.components.items():
        engine = bundle.manifest.raw["components"][name]["engine"]
        proof = engine.get("precision", {})
        seconds = f"{engine['build_seconds']:.1f} s" if "build_seconds" in engine else "–"
        table.add_row(
            name,
            *(_counts(proof.get(kind, {})) for kind in _KINDS),
            readable(bundle.manifest.files[spec.engine_file].bytes),
            "reused" if engine.get("cached") else seconds,
        )
    return table


def engine_notes(bundle: Bundle) -> list[str]:
    """Return a line per component: where its counts were read, its float32 islands, and what the inspector counted."""
    lines = []
    for name in bundle.manifest.components:
        engine = bundle.manifest.raw["components"][name]["engine"]
        proof = engine.get("precision", {})
        islands = ", ".join(island.removesuffix(".weight") for island in proof.get("islands", [])) or "none"
        lines.append(f"{name}: read from the {proof.get('source', 'manifest')}; float32 islands: {islands}")
        if "inspected" in engine:
            seen = {kind: counts for kind, counts in engine["inspected"].items() if isinstance(counts, dict) and counts}
            kernels = "; ".join(f"{kind} {_counts(counts, ' ')}" for kind, counts in sorted(seen.items()))
            lines.append(f"{name}: {engine['inspected']['source']} counts {kernels}")
    return lines


def _counts(counts: Mapping[str, int], between: str = "\n") -> str:
    return between.join(f"{number} {precision}" for precision, number in sorted(counts.items())) or "–"
