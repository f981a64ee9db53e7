"""Runs HMAR's eager side: the model's own modules in the bundle's precisions, as they are, compiled, or timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from himar.families.hmar.attention import Attend, own_scale
from himar.families.hmar.model import HMAR, Network
from himar.families.hmar.sampler import Forced, OnForward, sample_codes
from himar.families.hmar.tokenizer.network import Tokenizer
from himar.families.hmar.transformer import Block
from himar.images import to_pixels
from himar_export.bench.eager import Guard, hold_cast, shared_copy
from himar_export.bench.time_breakdown import Clock
from himar_export.bench.timing import Outputs
from himar_export.bench.workload import SEED
from himar_kernels.families.hmar import PhiloxDraws, SamplingConfig
from himar_kernels.families.hmar.sizes import CONDITIONS, MASKED_TAIL, NEXT_SCALE_TAIL, TRUNK, VAR_TAIL, VAR_TRUNK
from himar_kernels.families.registry import VAE_DECODER
from himar_runtime.decode import DECODE_BATCH

Networks = tuple[HMAR, Tokenizer]


def eager_networks(
    model: HMAR,
    tokenizer: Tokenizer,
    precisions: Mapping[str, str],
    *,
    compiled: bool = False,
    clock: Clock | None = None,
) -> Networks:
    """Return copies of both networks that share their weights and run each component in its precision.

    See FamilyBench.eager_networks. Blocks are compiled one by one, since every scale has a length of its own, and the
    decoder as one graph. Where all networks share one precision, weights of matmuls are cast once, here; else at every
    call.
    """
    guard = Guard(model.pos_1LC.device.type, precisions, compiled, clock)
    unchanged = Guard(guard.device, {}, clock=clock)  # the embedding is float32 in an engine too
    model, tokenizer = shared_copy(model), shared_copy(tokenizer)
    if compiled:
        for module in model.modules():
            if isinstance(module, Block):
                module.compile(dynamic=True)
    names = [CONDITIONS, TRUNK, NEXT_SCALE_TAIL, *([MASKED_TAIL] if model.config.masked else [])]
    used = {precisions.get(name, "fp32") for name in names}
    if len(used) == 1:
        for name, module in model.named_children():
            if name != "word_embed":
                hold_cast(module, *used)
    trunk, tail = model.trunk, model.tail

    def guarded_trunk(x: Tensor, vectors: Tensor, attends: Sequence[Attend], *rest: Any) -> Tensor:
        return guard.wrap(trunk, VAR_TRUNK if _all_scales(attends) else TRUNK)(x, vectors, attends, *rest)

    def guarded_tail(network: Network, x: Tensor, vectors: Tensor, head: Tensor, attends: Any, *rest: Any) -> Tensor:
        own = MASKED_TAIL if network == "masked" else NEXT_SCALE_TAIL
        name = VAR_TAIL if _all_scales(attends) else own
        return guard.wrap(tail, name)(network, x, vectors, head, attends, *rest)

    guard.replace(model, "conditions", CONDITIONS)
    for method in ("first_input", "scale_input", "masked_input"):
        unchanged.replace(model, method, TRUNK, counts=False)  # in the engines it is the trunk's
    model.trunk, model.tail = guarded_trunk, guarded_tail  # type: ignore[method-assign,assignment]
    hold_cast(tokenizer.decoder, precisions.get(VAE_DECODER, "fp32"))
    hold_cast(tokenizer.post_quant_conv, precisions.get(VAE_DECODER, "fp32"))
    guard.replace(tokenizer, "decode", VAE_DECODER, dynamic=False)
    return model, tokenizer


def _all_scales(attends: Sequence[Attend]) -> bool:
    return any(attend is not own_scale for attend in attends)


@torch.inference_mode()
def run_eager(
    networks: Networks,
    labels: Sequence[int],
    sampling: SamplingConfig,
    seed: int = SEED,
    forced: Forced | None = None,
    on_forward: OnForward | None = None,
) -> Outputs:
    """Generate with PyTorch; return codes (B, L), latents (B, Cv, H, H) and images uint8 (B, H, W, 3).

    A smooth preview has no codes. forced, on_forward: see `sample_codes`.
    """
    model, tokenizer = networks
    draws = PhiloxDraws(seed)
    sampled = sample_codes(
        model, tokenizer, labels, draws=draws, sampling=sampling, forced=forced, on_forward=on_forward
    )
    # As many at once as the runtime decodes: activations of more would only cost memory.
    pixels = [to_pixels(tokenizer.decode(part)) for part in sampled.f_hat.split(DECODE_BATCH)]
    outputs: dict[str, NDArray[Any]] = {"latents": sampled.f_hat.cpu().numpy(), "images": np.concatenate(pixels)}
    return outputs if sampled.codes is None else {"codes": sampled.codes.cpu().numpy(), **outputs}
