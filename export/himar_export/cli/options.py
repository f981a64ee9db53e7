"""Defines options that several verbs share, and reads their values."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from himar_kernels import BuildError
from himar_kernels.shared.options import NamedPath, wrong_usage
from himar_runtime.cache import cache_directory

from ..families.hi_mar.recordings import LAYOUT_KEYS
from ..graph.precision_choice import component_precision
from ..tensorrt.options import OPTIMIZATION_LEVELS, EngineOptions, check_suits, parse_size

_ENGINES = (
    click.option("--opt-level", "optimization_level", default=3, show_default=True,
                 type=click.IntRange(OPTIMIZATION_LEVELS[0], OPTIMIZATION_LEVELS[-1]),
                 help="TensorRT: 0 builds fastest, 5 searches longest."),
    click.option("--workspace", callback=lambda ctx, param, text: size_option(text),
                 help="TensorRT: maximum memory for one layer's intermediate results, for example 8GiB."),
    click.option("--version-compatible", is_flag=True,
                 help="tensorrt: engines for later versions too, run by the lean runtime."),
    click.option("--hardware-compatible", is_flag=True,
                 help="tensorrt: engines for every GPU from Ampere on, not only for this one."),
    click.option("--refittable", is_flag=True, help="TensorRT: engines whose weights `refit` can replace."),
    click.option("--gpu", "gpus", multiple=True, metavar="sm_NN|current",
                 help="tensorrt-rtx: GPU generation to build for; may be repeated. Its builder's choice if not given."),
    click.option("--cache", type=NamedPath(file_okay=False),
                 help="Folder of built engines to reuse; himar's folder in the user's cache if not given."),
    click.option("--no-cache", is_flag=True, help="Build every engine anew and keep none."),
)  # fmt: skip


def precision_options(when: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what adds a model's precisions without a bundle to a command; `when` says in the help when they hold."""
    texts = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8", "fp8": "fp8 (e4m3)"}
    options = [
        click.option(f"--{name}", "precision", flag_value=name, default=None, help=f"{when}: matmuls in {text}.")
        for name, text in texts.items()
    ]
    options.append(
        click.option("--precision", "component_precision", multiple=True, metavar="NAME=PRECISION",
                     callback=precision_pairs, help=f"{when}: of one component; may be repeated.")
    )  # fmt: skip

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of TensorRT's builders to a command; `take_engine_options` reads them."""
    for option in reversed(_ENGINES):
        command = option(command)
    return command


def take_engine_options(options: dict[str, Any]) -> tuple[EngineOptions, Path | None]:
    """Remove the builders' options from `options`; return them, and the cache folder or None."""
    cache, no_cache = options.pop("cache"), options.pop("no_cache")
    if cache is not None and no_cache:
        raise click.UsageError("--cache and --no-cache contradict each other; give one.")
    if options["backend"] == "onnxruntime" and (cache is not None or no_cache):
        raise click.UsageError("--cache and --no-cache need --backend tensorrt or tensorrt-rtx.")
    engine = EngineOptions(**{field.name: options.pop(field.name) for field in fields(EngineOptions)})
    with wrong_usage():
        check_suits(engine, options["backend"])
    return engine, None if no_cache else cache or cache_directory("engines")


def size_option(text: str | None) -> int | None:
    """Read a size such as 8GiB; anything else is wrong usage."""
    try:
        return None if text is None else parse_size(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def precision_pairs(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    """Read NAME=PRECISION pairs."""
    pairs: dict[str, str] = {}
    for text in value:
        name, equals, precision = text.partition("=")
        if not equals or not name or not precision:
            raise click.BadParameter(f"{text!r} is not NAME=PRECISION, for example vae_decoder=fp32.")
        if pairs.get(name, precision) != precision:
            raise click.BadParameter(f"{name} is given {pairs[name]} and {precision}; give one of them.")
        try:
            pairs[name] = component_precision(precision, name)
        except BuildError as error:
            raise click.BadParameter(str(error)) from None
    return pairs


def fp32_layers(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, list[str]]:
    """Read NAME=LAYER,LAYER pairs, and files that `debug --json` printed, which have such pairs under `fp32_layers`."""
    found: dict[str, list[str]] = {}
    for text in value:
        name, equals, layers = text.partition("=")
        if equals and name and all(layers.split(",")):
            found.setdefault(name, []).extend(layers.split(","))
        elif text.endswith(".json"):
            for component, names in _layers_of_file(Path(text)).items():
                found.setdefault(component, []).extend(names)
        else:
            raise click.BadParameter(f"{text!r} is neither NAME=LAYER, for example dit_head=blocks.0.fc2, nor a .json.")
    return found


def _layers_of_file(path: Path) -> dict[str, list[str]]:
    try:
        layers = json.loads(path.read_text(encoding="utf-8"))["fp32_layers"]
        if all(isinstance(name, str) for names in layers.values() for name in names):
            return {component: list(names) for component, names in layers.items()}
        reason = "its fp32_layers are not lists of names by component"
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except (ValueError, LookupError, TypeError, AttributeError):
        reason = "it has no object fp32_layers of names by component"
    raise click.BadParameter(f"{path} is not what `himar-export debug --json` prints: {reason}.")


def case_option(ctx: click.Context, param: click.Parameter, name: str) -> str:
    """Read the name of a recorded run: no part of a path in the recording, no key of its layout."""
    if not name or "/" in name or name in LAYOUT_KEYS:
        raise click.BadParameter(f"{name!r} cannot name a run: it is empty, holds '/', or is a key of the layout.")
    return name
