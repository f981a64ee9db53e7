"""Encodes images to codes while HMAR trains: a random crop of each, every time it comes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from himar_kernels import InputError
from himar_kernels.families.hmar import Scales

from ...device import full_precision
from ...families.hmar.config import ModelConfig
from ...families.hmar.tokenizer.network import Tokenizer, image_values
from ..crop import UnreadableImageError, check_image, read_crops
from ..file_check import OnFiles, require_readable
from ..folder import ImageList

_CHUNK = 8
"""Images that the tokenizer encodes at once; more take memory and no less time."""


class ImageCodes:
    """Reads, crops at random and encodes the images of each step; `himar cache-latents` does it once for all steps.

    In a training of several processes each reads and encodes its own images. images: files and classes; tokenizer:
    encodes on its own device; readers: threads that decode images; None takes 4 while training, and one per core to
    check them all.
    """

    def __init__(
        self, images: ImageList, tokenizer: Tokenizer, config: ModelConfig, *, readers: int | None = None
    ) -> None:
        self._images, self._tokenizer, self._readers = images, tokenizer, readers
        self._pool = ThreadPoolExecutor(readers or 4)
        self.scales, self.quantizer = config.scales, tokenizer.quantize
        self.class_names: Sequence[str] = images.class_names
        self.labels: Tensor = torch.tensor(images.labels)

    def check(self, on_files: OnFiles | None = None, part: slice = slice(None)) -> None:
        """Decode every image of a part. Raises InputError that names those that cannot be read."""
        paths = [self._images.path(index) for index in range(len(self._images.names))[part]]
        advice = "remove them, or let himar cache-latents leave them out"
        require_readable(paths, check_image, advice, on_files, self._readers)

    def draw(self, chosen: Tensor, needed: Collection[slice], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the chosen images' codes (B, L) and labels (B,), of a random crop of each; 0 where not needed.

        Raises InputError, which names the file, when an image cannot be read.
        """
        places = torch.rand(len(chosen), 1, 2, generator=generator, dtype=torch.float64).numpy()
        codes = torch.zeros(len(chosen), self.scales.tokens, dtype=torch.int64)
        wanted = [index for part in needed for index in range(len(chosen))[part]]
        for first in range(0, len(wanted), _CHUNK):
            some = wanted[first : first + _CHUNK]
            crops = self._pool.map(self._read, chosen[some].tolist(), places[some])
            codes[some] = encode_crops(self._tokenizer, self.scales, np.concatenate(list(crops)))
        return codes, self.labels[chosen]

    def values(self, chosen: Tensor) -> dict[str, Any]:
        """See Codes.values: the mean of all pixels of a crop in the middle of each image, which is the same anywhere.

        Codes are not: of two that are nearly as near, another machine's rounding may take the other.
        """
        middle = np.full((1, 2), 0.5)
        return {"pixel_means": [self._read(index, middle).mean().item() for index in chosen.tolist()]}

    def _read(self, index: int, places: NDArray[np.float64]) -> NDArray[np.uint8]:
        path = self._images.path(index)
        try:
            return read_crops(path, self.scales.side * self._tokenizer.stride, places).pixels
        except UnreadableImageError as error:
            raise InputError(
                f"{path} cannot be read: {error}; remove it, or let himar cache-latents leave out such files."
            ) from error


@torch.inference_mode()
def encode_crops(tokenizer: Tokenizer, scales: Scales, crops: NDArray[np.uint8]) -> Tensor:
    """Crops (m, H, H, 3) → codes (m, L), int64, on the CPU; the tokenizer runs in full float32."""
    device = tokenizer.quantize.embedding.weight.device
    pixels = image_values(crops).to(device).permute(0, 3, 1, 2)
    with full_precision():
        return tokenizer.encode(pixels, scales).cpu()
