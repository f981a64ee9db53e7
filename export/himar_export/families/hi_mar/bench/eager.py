"""Runs Hi-MAR's eager side: the model's own modules in the bundle's precisions, as they are, compiled, or timed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from himar.families.hi_mar.model import HiMAR
from himar.families.hi_mar.sampler import generate
from himar.families.hi_mar.training import repeated_blocks
from himar.families.hi_mar.transformer import Block
from himar.images import to_pixels
from himar.vae.autoencoder import AutoencoderKL
from himar_export.bench.eager import Guard, hold_cast, shared_copy
from himar_export.bench.shown import Shown
from himar_export.bench.time_breakdown import Clock
from himar_export.bench.timing import Outputs
from himar_export.bench.workload import SEED
from himar_kernels import PhiloxDraws
from himar_kernels.families.hi_mar import SamplingConfig
from himar_kernels.families.registry import VAE_DECODER
from himar_runtime.decode import DECODE_BATCH

from ..phases import model_info, phase_head

Networks = tuple[HiMAR, AutoencoderKL | None]


def eager_networks(
    model: HiMAR,
    vae: AutoencoderKL | None,
    precisions: Mapping[str, str],
    *,
    compiled: bool = False,
    clock: Clock | None = None,
) -> Networks:
    """Return copies of both networks that share their weights and run each component in its precision.

    Half precision is autocast around the component; what comes out is float32 again, as it is from an engine. Where
    transformers and heads share one precision, weights of matmuls are cast once, here; else at every call.

    Args:
        precisions: of each component's matmuls; float32 where it is not named.
        compiled: through torch.compile, which works when a shape is first seen: heads and decoder each as one graph,
            transformers block by block, since their sequences change from step to step.
        clock: adds up the time of each component's calls.
    """
    guard = Guard(model.mask_token.device.type, precisions, compiled, clock)
    model = shared_copy(model)
    if compiled:
        for block in repeated_blocks(model):
            if isinstance(block, Block):
                block.compile(dynamic=True)
    phases = model_info(model.config).phases
    used = {precisions.get(name, "fp32") for phase in phases for name in (phase.transformer, phase.head)}
    if len(used) == 1:  # phases share weights, and a head's condition is embedded in its transformer's precision
        hold_cast(model, *used)
    for phase in phases:
        head = phase_head(model, phase.name)
        guard.replace(model, f"transformer_{phase.name}", phase.transformer)
        guard.replace(head, "condition", phase.transformer, counts=False)  # in the engines it is the transformer's
        # An MLP head takes as many rows as a step reveals; a DiT head takes all positions in every step.
        guard.replace(head, "denoise", phase.head, dynamic=phase.kind == "mlp")
    if vae is not None:
        vae = shared_copy(vae)
        hold_cast(vae, precisions.get(VAE_DECODER, "fp32"))
        guard.replace(vae, "decode", VAE_DECODER, dynamic=False)
    return model, vae


@torch.inference_mode()
def run_eager(networks: Networks, images: Shown | Tensor, sampling: SamplingConfig, seed: int = SEED) -> Outputs:
    """Generate with PyTorch; return latents (B, C, h, w) and, with a VAE, images uint8 (B, H, W, 3)."""
    model, vae = networks
    shown: dict[str, Any] = {"labels": images}
    if isinstance(images, np.ndarray | Tensor):
        shown = {"contexts": torch.as_tensor(images)}
    latents = generate(model, **shown, draws=PhiloxDraws(seed), sampling=sampling)
    outputs: dict[str, NDArray[Any]] = {"latents": latents.cpu().numpy()}
    if vae is not None:
        # As many at once as the runtime decodes: activations of more would only cost memory.
        outputs["images"] = np.concatenate([to_pixels(vae.decode(part)) for part in latents.split(DECODE_BATCH)])
    return outputs
