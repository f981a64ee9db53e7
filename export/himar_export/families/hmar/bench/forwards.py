"""Compares the engines with eager forward by forward, both taking the codes and the masked cells of eager.

Where a run's codes are not the same, one code that rounding turned has changed all that follow; so the logits of every
forward decide, on the same codes.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from numpy.typing import NDArray

from himar.families.hmar.sampler import Observed as EagerObserved
from himar_export.bench.measurement import ENGINES
from himar_export.bench.workload import SEED, Workload
from himar_export.verify.compare import Comparison, compare
from himar_export.verify.limits import COMPONENT_LIMIT, stated_precisions
from himar_kernels.families.hmar import PhiloxDraws
from himar_kernels.families.hmar.sizes import (
    CONDITIONS,
    MASKED_TAIL,
    NEXT_SCALE_TAIL,
    TRUNK,
    VAR_TAIL,
    VAR_TRUNK,
)
from himar_kernels.families.registry import VAE_DECODER
from himar_runtime.decode import DECODE_BATCH
from himar_runtime.families.hmar.family import hmar_model
from himar_runtime.families.hmar.host import load_codebook
from himar_runtime.families.hmar.loop import Observed, Request, run_scales

from .eager import eager_networks, run_eager


def compared_forwards(workload: Workload, batch: int) -> list[Comparison]:
    """Return one comparison per tail of the guided logits of all its forwards, and one of the decoder's images."""
    labels, sampling = [int(each) for each in workload.shown(batch)], workload.sampling
    plain = eager_networks(workload.model, workload.vae, {})
    expected: dict[tuple[int, int], NDArray[np.float32]] = {}
    drawn: dict[tuple[int, int], NDArray[np.int64]] = {}
    masks: dict[tuple[int, int], NDArray[np.bool_]] = {}

    def observe(seen: EagerObserved) -> None:
        place = seen.forward.scale, seen.forward.step
        expected[place] = seen.logits.cpu().numpy()
        if seen.drawn is not None:
            drawn[place] = seen.drawn.cpu().numpy()
        if seen.masked is not None:
            masks[place] = seen.masked.cpu().numpy()

    outputs = run_eager(plain, labels, sampling, on_forward=observe)
    pairs: dict[str, list[tuple[NDArray[np.float32], NDArray[np.float32]]]] = defaultdict(list)

    def collect(seen: Observed) -> None:
        tail = VAR_TAIL if sampling.all_scales else MASKED_TAIL if seen.forward.step else NEXT_SCALE_TAIL
        pairs[tail].append((seen.logits, expected[seen.forward.scale, seen.forward.step]))

    manifest = workload.bundle.manifest
    request = Request(np.asarray(labels), np.arange(batch), sampling, PhiloxDraws(SEED))
    run_scales(
        workload.networks,
        hmar_model(manifest),
        load_codebook(workload.bundle),
        request,
        lambda step, latent: True,
        forced=drawn,
        forced_masks=masks,
        on_forward=collect,
    )
    limits = {name: COMPONENT_LIMIT[each] for name, each in stated_precisions(workload.bundle).items()}
    used = (VAR_TRUNK,) if sampling.all_scales else (TRUNK,)
    found = []
    for tail, both in pairs.items():
        ours, theirs = (np.concatenate([part.ravel() for part in parts]) for parts in zip(*both, strict=True))
        limit = max(limits[name] for name in (CONDITIONS, *used, tail))
        found.append(compare(f"{ENGINES}: {tail} logits", ours, theirs, limit))
    latent = outputs["latents"][:DECODE_BATCH]
    image = workload.networks[VAE_DECODER].run({"latent": latent})["image"]
    truth = _decoded(workload, latent)
    return [*found, compare(f"{ENGINES}: {VAE_DECODER} image", image, truth, limits[VAE_DECODER])]


@torch.inference_mode()
def _decoded(workload: Workload, latent: NDArray[np.float32]) -> NDArray[np.float32]:
    decoded: NDArray[np.float32] = workload.vae.decode(torch.from_numpy(latent).to(workload.device)).cpu().numpy()
    return decoded
