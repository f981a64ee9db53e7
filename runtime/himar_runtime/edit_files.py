"""Reads the image and the mask of an edit from files, as a person sees them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

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
    return as_mask(grey, str(path), "black nor white; paint white what is to be drawn anew and black what is to stay")


def as_mask(grey: NDArray[np.uint8], name: str, otherwise: str) -> NDArray[np.bool_]:
    """Return True where a value is 128 or more; InputError where too many are between 0 and 255, with `otherwise`."""
    between = float(((grey > _BLACK) & (grey < _WHITE)).mean())
    if between > _MOST_GREY:
        raise InputError(f"{name} is no mask: {between:.0%} of its pixels are neither {otherwise}.")
    return grey >= _THRESHOLD


def open_picture(
    file: Path | BinaryIO, name: str, advice: str, formats: tuple[str, ...] = FORMATS, side: int | None = None
) -> Image.Image:
    """Return a decoded picture, turned as its EXIF orientation says; transparency is in a channel "A".

    Args:
        name, advice: for sentences: what it is, and what to do if it cannot be read.
        formats: of Pillow's.
        side: of the model's images; a picture of another size is refused before its pixels are decoded. None: any.

    Raises InputError that says why it cannot be used.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file, formats=formats) as opened:
                mode = opened.mode
                if side is not None and opened.size != (side, side):
                    raise InputError(
                        f"{name} has {opened.width} × {opened.height} pixels, but the model's images have {side} × "
                        f"{side}; crop or resize it first."
                    )
                picture = ImageOps.exif_transpose(opened)
                if "transparency" in picture.info and mode in ("L", "P", "RGB", "1"):
                    picture = picture.convert("RGBA")
                picture.load()
    except InputError:
        raise
    except OSError as error:
        reason = error.strerror or "it is not an image that can be decoded"
        raise InputError(f"{name} cannot be read: {reason}; {advice}.") from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes a decoder raise anything
        reason = str(error) or type(error).__name__
        raise InputError(f"{name} cannot be read: {reason:.200}; {advice}.") from error
    if mode not in _MODES:
        raise InputError(f"{name} has pixels of type {mode}; save it with 8 bits a channel first.")
    return picture


def transparency(picture: Image.Image) -> NDArray[np.uint8] | None:
    """Return the alpha uint8 (H, W) of a picture that is transparent anywhere, else None."""
    if "A" not in picture.getbands():
        return None
    alpha = np.array(picture.getchannel("A"))
    return alpha if alpha.min() < 255 else None


def _opaque(path: Path, what: str) -> Image.Image:
    """Return the decoded picture; InputError says why it cannot be used."""
    name = f"the {what} {path}"
    picture = open_picture(path, name, "give a PNG or JPEG file")
    if transparency(picture) is not None:
        raise InputError(
            f"{name} has transparent pixels, of which it is unclear what they mean; save it without transparency."
        )
    return picture
