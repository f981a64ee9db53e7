"""Prints the memory that a bundle is predicted to take, by component, as a table or as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from himar_kernels import InputError
from himar_runtime import Bundle
from himar_runtime.memory.prediction import ComponentMemory, Prediction, predict

from ..report import print_json, readable


def print_memory(bundle: Bundle, images: int, lanes: int, device: str, as_json: bool) -> None:
    """Print what lanes take that run `images` images at once. Raises InputError for more than the bundle takes."""
    if images > bundle.manifest.max_batch:
        raise InputError(
            f"--batch is {images}, but the engines of {bundle.root} run up to {bundle.manifest.max_batch} images at "
            f"once; ask for 1 to {bundle.manifest.max_batch}."
        )
    found = predict(bundle.manifest, images, lanes, device)
    if as_json:
        print_json({"bundle": str(bundle.root), "device": device, **to_dict(found)})
        return
    console = Console()
    console.print(_table(found, device))
    console.print(f"From: {found.source}.", highlight=False, markup=False, soft_wrap=True)
    for note in _notes(found):
        click.echo(note)


def to_dict(found: Prediction) -> dict[str, Any]:
    """Return a prediction as plain JSON values, its totals included."""
    return {
        "images": found.images,
        "lanes": found.lanes,
        "components": [asdict(each) for each in found.components],
        "loaded": found.loaded,
        "runs": found.runs,
        "buffers": found.buffers,
        "libraries": found.once,
        "total": found.total,
        "source": found.source,
    }


def _table(found: Prediction, device: str) -> Table:
    count = f"{found.images} image{'s' if found.images > 1 else ''}"
    lanes = f"{found.lanes} lane{'s' if found.lanes > 1 else ''}"
    table = Table(title=f"Memory on {device}: {count} at once in {lanes}", title_justify="left")
    table.add_column("component")
    for heading in ("weights", "loaded", f"runs of {count}", "all lanes"):
        table.add_column(heading, justify="right")
    for each in (each for each in found.components if not each.deferred):
        table.add_row(*_row(each, found))
    if found.once:
        table.add_row("libraries, once", "", readable(found.once), "", readable(found.once))
    if found.buffers:
        table.add_row("the loop's buffers", "", "", readable(found.buffers), readable(found.lanes * found.buffers))
    table.add_section()
    weights = sum(each.weights for each in found.components if not each.deferred)
    table.add_row("together", readable(weights), readable(found.loaded), "", readable(found.total), style="bold")
    later = [each for each in found.components if each.deferred]
    if later:
        table.add_section()
        for each in later:
            table.add_row(*_row(each, found, " (when first needed)"))
    return table


def _row(each: ComponentMemory, found: Prediction, note: str = "") -> tuple[str, ...]:
    lanes = 1 if found.device == "cuda" and each.backend == "onnxruntime" else found.lanes  # one stream for all
    run = "–" if each.run is None else readable(each.run)
    return (
        each.name + note,
        readable(each.weights),
        readable(each.loaded),
        run,
        readable(each.loaded + lanes * (each.run or 0)),
    )


def _notes(found: Prediction) -> list[str]:
    if found.device == "cpu":
        return ["The process and its libraries come on top: about 70 MB in Python (docs/memory.md)."]
    notes = ["This was not compared with a GPU."]
    if all(each.run is None for each in found.components):
        return [f"{notes[0]} What engines take to run, CUDA's context and its libraries come on top."]
    if any(each.backend != "onnxruntime" for each in found.components):
        notes.append("The engines of a lane share the memory of the run that needs most.")
    return [*notes, "CUDA's own context comes on top."]
