"""Samples pictures from a model, in chunks, and writes a PNG of all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from himar_kernels import Draws, InputError, to_sheet, to_uint8
from himar_kernels.families.hi_mar import SamplingConfig
from himar_kernels.shared.files import new_file

from .families.hi_mar.model import HiMAR
from .families.hi_mar.sampler import generate
from .vae.autoencoder import AutoencoderKL, require_fit


@torch.inference_mode()
def sample_images(
    model: HiMAR,
    vae: AutoencoderKL,
    labels: Sequence[int] | None,
    draws: Draws,
    sampling: SamplingConfig | None = None,
    chunk: int = 100,
    first_index: int = 0,
    *,
    contexts: Tensor | None = None,
) -> NDArray[np.uint8]:
    """Return one image per label or context, uint8 (B, H, W, 3); `chunk` are made at once, which does not change them.

    labels, contexts: as for `generate`, of which one is None. `first_index` is the image index of the first image:
    images depend on the draws' seed and their index alone. Raises InputError for labels or contexts that the model does
    not take or an image that is not finite, ConfigError when model and VAE do not belong together.
    """
    require_fit(vae, model.config, "the VAE")

    def some(part: slice, first_index: int) -> Tensor:
        own = None if labels is None else labels[part]
        read = None if contexts is None else contexts[part]
        latents = generate(model, own, contexts=read, draws=draws, sampling=sampling, first_index=first_index)
        return vae.decode(latents)

    return in_chunks(some, len(labels or ()) if contexts is None else len(contexts), chunk, first_index)


def in_chunks(
    make: Callable[[slice, int], Tensor], count: int, chunk: int = 100, first_index: int = 0
) -> NDArray[np.uint8]:
    """Return `count` images that `make` gives, `chunk` at a time, as pixels: uint8 (B, H, W, 3).

    make: a part of the request and the image index of its first image to images (B, 3, H, W) in [-1, 1]. Raises
    InputError for a count of 0, and for an image that is not finite.
    """
    parts = []
    for first in range(0, count, chunk):
        index = first_index + first
        pixels = make(slice(first, min(first + chunk, count)), index)
        broken = ~pixels.isfinite().flatten(1).all(dim=1)
        if broken.any():
            raise InputError(
                f"image {index + int(broken.int().argmax())} is not finite; lower the guidance, or look for NaN in the "
                f"weights."
            )
        parts.append(to_pixels(pixels))
    if not parts:
        raise InputError("no image was asked for; give at least one class label, or one context.")
    return np.concatenate(parts)


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """Return images (B, 3, H, W) in [-1, 1] as RGB pixels uint8 (B, H, W, 3), as `himar_kernels.to_uint8` does.

    On the device where they are, so that a GPU's images come to the host in a quarter of the bytes.
    """
    if images.device.type == "cpu":
        return to_uint8(images.numpy())
    scaled = (images.float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def save_grid(path: Path, images: NDArray[np.uint8], columns: int) -> None:
    """Write images uint8 (B, H, W, 3) as one PNG, row by row, in one move. Raises InputError if it cannot."""
    from PIL import Image

    with new_file(path) as unfinished:
        Image.fromarray(to_sheet(images, columns)).save(unfinished, format="PNG")
