"""Records the eager model: every forward of a run, its draws, codes and latents (tests/golden/README.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from himar.families.hmar.model import HMAR
from himar.families.hmar.sampler import Observed, sample_codes
from himar.families.hmar.tokenizer.network import Tokenizer, image_values
from himar_kernels.families.hmar import Draws, SamplingConfig

Arrays = dict[str, NDArray[Any]]

_ALL_IMAGES = 36
"""Cells up to which a recording has the guided logits of every image; above, those of image 0."""
_WHOLE = 16
"""Cells up to which it has both halves' logits and the tokens too."""


def record(
    model: HMAR, tokenizer: Tokenizer, labels: Sequence[int], *, draws: Draws, sampling: SamplingConfig, case: str
) -> Arrays:
    """Run the eager model and return a recording with the run under `case`."""
    kept = _Kept(draws)
    seen: list[Observed] = []
    latents: list[NDArray[np.float32]] = []
    sampled = sample_codes(
        model,
        tokenizer,
        labels,
        draws=kept,
        sampling=sampling,
        on_forward=seen.append,
        on_scale=lambda scale, latent: latents.append(latent.numpy()),
    )
    arrays: Arrays = {f"{case}/labels": np.asarray(labels, np.int32), **_settings(sampling, case)}
    for observed in seen:
        prefix = f"{case}/forward{observed.forward.index:02d}"
        arrays |= {f"{prefix}/{name}": array for name, array in _forward(observed).items()}
        drawn = kept.drawn[observed.forward.scale, observed.forward.step]
        arrays[f"{prefix}/{'gumbel' if sampling.smooth else 'uniform'}"] = drawn
    arrays |= {f"{case}/f_hat{scale:02d}": latent for scale, latent in enumerate(latents)}
    with torch.inference_mode():
        image = tokenizer.decode(sampled.f_hat[:1])[0]
    arrays[f"{case}/image_row0"] = ((image + 1) / 2).numpy()
    return arrays


@torch.inference_mode()
def record_tokenizer(tokenizer: Tokenizer, images: NDArray[np.uint8]) -> Arrays:
    """Return what the encoder makes of images uint8 (B, 3, 16H, 16H): the latents, as `tokenizer/…`."""
    latents = tokenizer.latent(image_values(images))
    return {"tokenizer/image_u8": images, "tokenizer/f": latents.numpy()}


class _Kept:
    """Passes draws through and keeps them by (scale, step)."""

    def __init__(self, inner: Draws) -> None:
        self._inner = inner
        self.drawn: dict[tuple[int, int], NDArray[np.float32]] = {}

    def uniforms(self, scale: int, step: int, images: NDArray[np.int64], cells: int) -> NDArray[np.float32]:
        """See himar_kernels.families.hmar.Draws."""
        self.drawn[scale, step] = self._inner.uniforms(scale, step, images, cells)
        return self.drawn[scale, step]

    def gumbel(self, scale: int, images: NDArray[np.int64], cells: int, codes: int) -> NDArray[np.float32]:
        """See himar_kernels.families.hmar.Draws."""
        self.drawn[scale, 0] = self._inner.gumbel(scale, images, cells, codes)
        return self.drawn[scale, 0]


def _settings(sampling: SamplingConfig, case: str) -> Arrays:
    """What a run is asked for, but its schedule, which the forwards tell."""
    values = {name: value for name, value in sampling.to_dict().items() if name != "schedule"}
    return {f"{case}/{name}": np.array(value) for name, value in values.items()}


def _forward(observed: Observed) -> Arrays:
    cells = observed.logits.shape[1]
    arrays: dict[str, torch.Tensor | None] = {
        "logits": observed.logits if cells <= _ALL_IMAGES else observed.logits[:1],
        "sample": observed.drawn,
        "confidence": observed.confidence,
        "codes": observed.codes,
    }
    if cells <= _WHOLE:
        arrays |= {"x": observed.x, "cond": observed.cond, "uncond": observed.uncond}
    found = {name: array.numpy() for name, array in arrays.items() if array is not None}
    if observed.masked is not None:
        found["masked"] = observed.masked.numpy().astype(np.uint8)
    for name in ("sample", "codes"):
        if name in found:
            found[name] = found[name].astype(np.int32)
    return {
        "scale": np.array(observed.forward.scale, np.int32),
        "step": np.array(observed.forward.step, np.int32),
        "keep": np.packbits(observed.keep.numpy(), axis=-1),
        **found,
    }
