"""From an image file to pixels: decoding, and the centre crop that diffusion papers train and measure on."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from himar_kernels import HimarError

if TYPE_CHECKING:
    from PIL import Image

_MODES_OF_8_BITS = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}


class UnreadableImageError(HimarError):
    """A file is no image that can be used; the text is the reason, without the file's name."""


def read_pixels(path: Path) -> NDArray[np.uint8]:
    """Decode an image file to RGB uint8 (H, W, 3); transparency is dropped. Raises UnreadableImageError."""
    return np.asarray(_decode(path))


def read_crop(path: Path, size: int) -> NDArray[np.uint8]:
    """Decode an image file and cut its centre square: RGB uint8 (size, size, 3). Raises UnreadableImageError.

    As ADM (Dhariwal and Nichol 2021) prepares ImageNet: halve with a box filter while the shorter side is at least
    twice `size`, resize bicubically so that the shorter side is `size`, crop the centre.
    """
    from PIL import Image

    image = _decode(path)
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _decode(path: Path) -> Image.Image:
    from PIL import Image

    try:
        if path.exists() and not path.is_file():
            raise UnreadableImageError("it is no plain file")  # Opening a pipe would wait for ever.
        # Pillow warns of large and of slightly broken files; what it can still decode is used.
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")
            if image.mode not in _MODES_OF_8_BITS:
                raise UnreadableImageError(f"its mode is {image.mode}, not 8 bits per channel")
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = str(error).replace(str(path), path.name).replace(repr(str(path)), path.name)
        raise UnreadableImageError(" ".join(reason.split()) or type(error).__name__) from error
