"""Measures how far the digits' networks in half precision, int8 and fp8 are from float32, on states of real sampling.

Run from the repository; some minutes of one core:

    himar-export build himar/himar/weights/digits.safetensors --config digits \
        --vae himar/himar/weights/digits-vae.safetensors --out demo/digits
    python -m benchmarks.studies.component_errors demo/digits

The states are what the float32 engines take while they make images of a seed that no build observes. Scales are those
of a build, fp8's once more with 16 times as large ones. fp8 is emulated on a CPU.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.int8_scales import session
from benchmarks.studies.measure import WEIGHTS, even_labels
from benchmarks.studies.record import IMAGES
from benchmarks.studies.report import row
from himar.families.hi_mar.checkpoints import load_checkpoint
from himar_export.families.family import export_family
from himar_export.graph.component import Component
from himar_export.graph.observed import Range
from himar_export.graph.precision_choice import Precision
from himar_export.make.calibrate import calibrate
from himar_export.verify.calls import Feed, SeenEngine
from himar_kernels import InputError
from himar_kernels.shared.console import run_cli
from himar_runtime import Bundle, Device, Networks, Pipeline, load_networks

ROWS = ("fp16", "int8", "fp8", "fp8, scales 16 times as large")
INTEGERS_AND_FP8: tuple[Precision, Precision] = ("int8", "fp8")
CALLS = 16
"""States of a network that are compared, spread evenly over its calls."""
SEED = 1000


def states(bundle: Path, names: Sequence[str], images: int) -> dict[str, list[Feed]]:
    """Return what each network takes at CALLS calls of a run, spread evenly."""
    opened = Bundle.open(bundle)
    networks = load_networks(opened, Device("cpu"), None)
    watched = {name: SeenEngine(networks[name], sys.maxsize) for name in names}
    Pipeline(opened, Networks({**networks.engines, **watched}, networks.lane)).generate(even_labels(images), seed=SEED)
    return {
        name: [each.calls[at] for at in sorted({*np.linspace(0, len(each.calls) - 1, CALLS).astype(int).tolist()})]
        for name, each in watched.items()
    }


def errors(
    component: Component, fixed: Mapping[str, Range] | None, by_weight: Mapping[str, Range], feeds: Sequence[Feed]
) -> dict[str, float]:
    """Return the relative L2 of all outputs from float32's, for each of ROWS.

    fixed: ranges for int8, None for scales per row; by_weight: for fp8.
    """
    wider = {name: Range(16 * each.low, 16 * each.high, each.square) for name, each in by_weight.items()}
    sessions = {
        "fp32": session(component, "fp32", None),
        "fp16": session(component, "fp16", None),
        "int8": session(component, "int8", fixed),
        "fp8": session(component, "fp8", by_weight),
        "fp8, scales 16 times as large": session(component, "fp8", wider),
    }
    outputs = {kind: np.concatenate([_outputs(each, feed) for feed in feeds]) for kind, each in sessions.items()}
    exact = outputs.pop("fp32")
    return {kind: float(np.linalg.norm(each - exact) / np.linalg.norm(exact)) for kind, each in outputs.items()}


def _outputs(opened: Any, feed: Feed) -> NDArray[np.float64]:
    types = {"tensor(float16)": np.float16, "tensor(float)": np.float32}
    given = {
        each.name: feed[each.name].astype(types.get(each.type, feed[each.name].dtype)) for each in opened.get_inputs()
    }
    return np.concatenate([each.ravel().astype(np.float64) for each in opened.run(None, given)])


@click.command(epilog="Example: python -m benchmarks.studies.component_errors demo/digits")
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--images", default=10, show_default=True, type=IMAGES, help="Images whose states are compared.")
@click.option("--component", "names", multiple=True, help="This network alone; may be repeated. All if not given.")
def main(bundle: Path, images: int, names: tuple[str, ...]) -> None:
    """Print a table: relative L2 from float32, in percent, of the networks of the float32 digits BUNDLE."""
    model = load_checkpoint(WEIGHTS / "digits.safetensors", "digits")
    parts = {part.name: part for part in export_family(model.family).components(model, None, images, "onnxruntime")}
    for name in names:
        if name not in parts:
            raise InputError(f"the model has no component {name!r}; it has {', '.join(parts)}.")
    names = names or tuple(parts)
    seen = states(bundle, names, images)
    with tempfile.TemporaryDirectory() as temporary:
        fixed, by_weight = (
            calibrate(Path(temporary) / kind, model, [*parts.values()], dict.fromkeys(names, kind), lambda *_: None)
            for kind in INTEGERS_AND_FP8
        )
    found = {name: errors(parts[name], fixed.get(name), by_weight[name], seen[name]) for name in names}
    click.echo(row(["%", *(f"`{name}`" for name in found)]))
    click.echo(row(["---"] + ["---:"] * len(found)))
    for kind in ROWS:
        click.echo(row([kind, *(f"{100 * each[kind]:.2g}" for each in found.values())]))


if __name__ == "__main__":
    sys.exit(run_cli(main))
