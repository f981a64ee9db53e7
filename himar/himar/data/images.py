"""Makes latents from image files while training, for data that is not worth a cache or changes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from himar_kernels import InputError

from ..vae.autoencoder import AutoencoderKL
from ..vae.training import latent_moments
from .crop import UnreadableImageError, check_image, read_crop
from .digits import half_size
from .file_check import OnFiles, require_readable
from .folder import ImageList
from .latents import sample_tokens


class ImageLatents:
    """Reads, crops, mirrors and encodes the images of each step; `himar cache-latents` does it once for all steps.

    In a training of several processes each encodes the whole batch: cache the latents for that.

    Args:
        images: files and classes.
        vae: encodes on its own device.
        img_size: side of the centre crop in pixels.
        flip: mirror each image with probability 1/2.
        readers: threads that decode images; None takes 4 while training, and one per core to check them all.
    """

    def __init__(
        self, images: ImageList, vae: AutoencoderKL, img_size: int, *, flip: bool = True, readers: int | None = None
    ) -> None:
        self._images, self._vae, self._size, self._flip = images, vae, img_size, flip
        self._pool = ThreadPoolExecutor(readers or 4)
        self._readers = readers
        self.class_names: Sequence[str] = images.class_names
        self.labels: Tensor = torch.tensor(images.labels)
        side, channels = img_size // vae.stride, vae.config.z_channels
        self.high_shape = (len(self.labels), 2, channels, side, side)
        self.low_shape = (len(self.labels), 2, channels, side // 2, side // 2)

    def check(self, on_files: OnFiles | None = None, part: slice = slice(None)) -> None:
        """Decode every image of a part. Raises InputError that names those that cannot be read."""
        paths = [self._images.path(index) for index in range(len(self._images.names))[part]]
        advice = "remove them, or let himar cache-latents leave them out"
        require_readable(paths, check_image, advice, on_files, self._readers)

    def draw(self, chosen: Tensor, scale: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Sample the chosen images' tokens (B, N, C) and (B, S, C), times the scale, with their labels (B,).

        Raises InputError, which names the file, when an image cannot be read.
        """
        mirrored = torch.rand(len(chosen), generator=generator) < (0.5 if self._flip else 0.0)
        crops = np.stack(list(self._pool.map(self._read, chosen.tolist())))
        device = next(self._vae.parameters()).device
        pixels = torch.from_numpy(crops).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        pixels = torch.where(mirrored.to(device)[:, None, None, None], pixels.flip(-1), pixels)
        high, low = (latent_moments(self._vae, part).cpu() for part in (pixels, half_size(pixels)))
        return sample_tokens(high, generator) * scale, sample_tokens(low, generator) * scale, self.labels[chosen]

    def _read(self, index: int) -> np.ndarray:
        path = self._images.path(index)
        try:
            return read_crop(path, self._size)
        except UnreadableImageError as error:
            raise InputError(
                f"{path} cannot be read: {error}; remove it, or let himar cache-latents leave out such files."
            ) from error
