"""Makes the images of a request on a Ray cluster, beginning where an earlier run of the same request stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from himar_kernels import InputError, check_labels
from himar_kernels.shared.options import warn_truncated
from himar_runtime.bundle.bundle import Bundle
from himar_runtime.families.family import runtime_family
from himar_runtime.pipeline import himar_version
from himar_runtime.prompts import Prompts

from ..files import require_new
from .cluster import choose_pool, connected, make_parts
from .parts import PartsFolder
from .run import BulkRun, Output

if TYPE_CHECKING:
    from ..cli.generate import GenerateRequest


def generate_on_cluster(
    request: GenerateRequest, address: str, actors: int | None, chunk: int, advance: Callable[[str, float], None]
) -> dict[str, Any]:
    """Generate, write, and return a summary: images, `resumed` of them from an earlier run, seconds, out, actors.

    Every value is checked before a cluster is asked for anything. What is finished when this is interrupted, or fails,
    stays in OUT.parts. Raises InputError for a request the bundle cannot fulfil and for an OUT.parts of another one,
    ClusterError where there is no cluster or no room, EngineError for what failed on a worker.
    """
    require_new(request.out)
    run, truncated = _plan(request, chunk)
    folder = PartsFolder(run, request.out)
    missing = folder.missing()
    resumed = images = folder.images()
    start, size = time.perf_counter(), 0
    try:
        if missing:
            advance("connecting", resumed / run.images)
            with connected(address):
                pool = choose_pool(request.device, request.threads, actors)
                size = pool.size
                for part, files in make_parts(run, missing, pool):
                    folder.write(part, files)
                    images += len(run.indices(part))
                    advance(f"{images} of {run.images} images, {size} at work", images / run.images)
        left = folder.missing()
        if left:
            raise InputError(f"{len(left)} parts of {folder.path} were removed meanwhile; give the command again.")
    except BaseException:
        if kept := folder.images():
            click.echo(
                f"{kept} of {run.images} images are kept in {folder.path}; the same command continues with the rest.",
                err=True,
            )
        else:
            folder.remove()
        raise
    folder.finish()
    seconds = time.perf_counter() - start
    summary = {"images": run.images, "seconds": seconds, "out": str(request.out), "resumed": resumed, "actors": size}
    return summary if run.prompts is None else {**summary, "truncated": truncated}


def _plan(request: GenerateRequest, chunk: int) -> tuple[BulkRun, list[int]]:
    """Return the checked run, and which prompts are cut, with a warning about those. Loads no engine."""
    bundle = Bundle.open(request.bundle.absolute(), hash_when_read=True)
    manifest = bundle.manifest
    request.require_decoder(manifest)
    shown = request.shown(manifest)
    from_text = manifest.model.context_shape is not None
    if from_text != ("prompts" in shown):
        kind, wanted = ("from text", "--prompt or --prompts-file") if from_text else ("of classes", "--labels")
        raise InputError(f"{request.bundle} makes images {kind}; give {wanted}.")
    truncated: list[int] = []
    if from_text:
        truncated = list(Prompts(bundle).texts(shown["prompts"]).truncated)
        warn_truncated(truncated, manifest.model.buffer)
    else:
        shown = {"labels": check_labels(shown["labels"], manifest.model.classes).tolist()}
    sampling = runtime_family(manifest.family).choose_sampling(
        manifest.model, manifest.sampling, request.sampling_name, request.guidance, request.changes
    )
    output: Output = "png" if request.out.suffix.lower() != ".npz" else "pixels" if request.pixels else "latents"
    labels, prompts = (None if shown.get(name) is None else tuple(shown[name]) for name in ("labels", "prompts"))
    run = BulkRun(
        request.bundle.absolute(), bundle.id, himar_version(), labels, prompts, request.count, request.seed, sampling,
        output, chunk,
    )  # fmt: skip
    return run, truncated
