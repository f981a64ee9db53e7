"""Reads the image and the mask of an edit from files, as a person sees them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from himar_kernels import InputError

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Pillow's names of what has at most 8 bits a channel; greyscale of 16 bits would be cut off."""

_THRESHOLD = 128
_BLACK, _WHITE = 32, 223
_MOST_GREY = 0.1
"""Share of a mask's pixels between black and white: edges may be soft, a photograph is no mask."""


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Return RGB pixels uint8 (H, W, 3) of an image file, turned as its EXIF orientation says.

    Raises InputError for a file that is no image, has more than 8 bits a channel, or is transparent anywhere.
    """
    return np.array(_opaque(Path(path), "image").convert("RGB"))


def read_mask(path: str | Path) -> NDArray[np.bool_]:
    """Return a mask bool (H, W) of an image file: True where its grey value is 128 or more, which is drawn anew.

    Raises InputError as `read_image` does, and where more than a tenth of the pixels are neither nearly black (at most
    32) nor nearly white (at least 223).
    """
    grey = np.array(_opaque(Path(path), "mask").convert("L"))
    between = float(((grey > _BLACK) & (grey < _WHITE)).mean())
    if between > _MOST_GREY:
        raise InputError(
            f"{path} is no mask: {between:.0%} of its pixels are neither black nor white; paint white what is to be "
            f"drawn anew and black what is to stay."
        )
    return grey >= _THRESHOLD


def _opaque(path: Path, what: str) -> Image.Image:
    """Return the decoded picture; InputError says why it cannot be used."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings(), Image.open(path, formats=FORMATS) as opened:
            warnings.simplefilter("ignore")
            mode = opened.mode
            picture = ImageOps.exif_transpose(opened)
            if "transparency" in picture.info and mode in ("L", "P", "RGB", "1"):
                picture = picture.convert("RGBA")
            picture.load()
    except OSError as error:
        reason = error.strerror or "it is not an image that can be decoded"
        raise InputError(f"the {what} {path} cannot be read: {reason}; give a PNG or JPEG file.") from error
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"the {what} {path} cannot be read: {error}; give a PNG or JPEG file.") from error
    if mode not in _MODES:
        raise InputError(f"the {what} {path} has pixels of type {mode}; save it with 8 bits a channel first.")
    if "A" in picture.getbands() and np.asarray(picture.getchannel("A")).min() < 255:
        raise InputError(
            f"the {what} {path} has transparent pixels, of which it is unclear what they mean; save it without "
            f"transparency."
        )
    return picture
