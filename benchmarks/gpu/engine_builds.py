"""Prints how large a model's engines are and how long they take to build, with random weights.

Run from the repository, after `make setup`; needs no GPU with tensorrt-rtx:

    .venv/bin/python -m benchmarks.gpu.engine_builds --config himar-b --precision fp16

Exports every component (the KL-16 decoder too, of a model with its 16 channels), builds its engine with TensorRT's
builder at --max-batch, without a cache, and prints bytes and seconds.
"""

import tempfile
import time
from pathlib import Path

import click
from rich.console import Console

from himar.families.hi_mar.config import read_config, resolve
from himar.families.hi_mar.model import HiMAR, randomise
from himar.vae.autoencoder import AutoencoderKL, VaeConfig
from himar_export.families.hi_mar.components import components
from himar_export.graph.precision_choice import precision_of, require_runnable
from himar_export.make.assemble import add_graphs
from himar_export.make.engines import build_engines, prepare_target
from himar_export.make.manifest import BundleWriter
from himar_export.tensorrt.options import EngineOptions


@click.command()
@click.option("--config", default="himar-b", show_default=True)
@click.option("--precision", default="fp16", show_default=True)
@click.option("--backend", default="tensorrt-rtx", show_default=True)
@click.option("--max-batch", default=64, show_default=True)
def main(config: str, precision: str, backend: str, max_batch: int) -> None:
    """Print one line per component."""
    say = Console(highlight=False).print
    target = prepare_target(backend, EngineOptions(), None)
    model = randomise(HiMAR(resolve(read_config(config), {}, config)), 0)
    vae = AutoencoderKL(VaeConfig()).eval().requires_grad_(False) if model.config.channels == 16 else None
    parts = components(model.eval().requires_grad_(False), vae, max_batch)
    precisions = {part.name: precision_of(part.name, precision, {}) for part in parts}
    require_runnable(precisions, backend)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.perf_counter()
        add_graphs(BundleWriter(folder, model, max_batch), model, vae, parts, precisions, lambda text, fraction: None)
        say(f"{config}, {precision}, max batch {max_batch}: graphs exported in {time.perf_counter() - start:.1f} s")
        entries = build_engines(target, folder, parts, precisions, lambda text, fraction: None)
        for part in parts:
            size = (folder / f"{part.name}.engine").stat().st_size
            say(f"{part.name:17} {size / 1e6:8.1f} MB  {entries[part.name]['build_seconds']:6.1f} s")


if __name__ == "__main__":
    main()
