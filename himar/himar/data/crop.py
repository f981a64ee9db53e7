"""Decodes an image file to pixels, and cuts the crops that papers train and measure on: centred, or at random.

A picture is read as a person sees it: rotated as its EXIF orientation says, on white where it is transparent,
so that colours hidden under transparency are never learned.
"""

from __future__ import annotations

import errno
import io
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from himar_kernels import HimarError

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")

_MODES_OF_8_BITS = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
NOT_DECODED = {"EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5"}
"""Formats that Pillow knows and that are left alone: EPS would run Ghostscript, and the rest cannot be decoded."""

_LARGE = 2**25
"""Pixels from which on one image at a time is decoded, so that memory does not grow with the readers."""
_LONG = 4
"""From this ratio of the sides on, the part that the crop needs is cut out before it is enlarged."""
_MARGIN = 8
"""Source pixels beyond that part which a bicubic filter sees, at most."""
_WIDER = 1.125
"""The shorter side of an image out of which squares are cut at random, over theirs."""
_ORIENTATION_TAG, _ACROSS = 0x0112, 5
"""EXIF's orientation, and the first value with which width and height change places."""
_LONGEST_REASON = 300

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTATION = (b"Raw profile type exif", b"XML:com.adobe.xmp")
"""Texts that may say which side is up."""
_LARGEST = 2**20
"""Bytes of a text, expanded, that Pillow takes."""

_ONE_LARGE = threading.Lock()
_PILLOWS_WARNINGS = ("ignore", None, Warning, re.compile(r"PIL(\.|$)"), 0)


class UnreadableImageError(HimarError):
    """A file is not an image that can be used; the text is the reason, without the file's name."""


@dataclass(frozen=True)
class Picture:
    """Pixels, RGB uint8 (H, W, 3), and what was done to them.

    turned: the EXIF orientation was applied; transparent: the image was put on white.
    """

    pixels: NDArray[np.uint8]
    turned: bool
    transparent: bool


def read_picture(path: Path, size: int | None = None) -> Picture:
    """Decode an image file, and cut its centre square of `size` pixels where that is given.

    Raises UnreadableImageError, whatever the decoder raised. The crop is that of ADM (Dhariwal and Nichol 2021) for
    ImageNet: halve with a box filter while the shorter side is at least twice `size`, resize bicubically so that the
    shorter side is `size`, crop the centre.
    """

    def read(image: Image.Image) -> Picture:
        upright, turned = _upright(image)
        flat, transparent = _flat(upright if size is None else _middle(upright, size))
        return Picture(np.asarray(flat if size is None else _crop(flat, size)), turned, transparent)

    return _decoded(path, read)


def read_pixels(path: Path) -> NDArray[np.uint8]:
    """Return the pixels of `read_picture`, uint8 (H, W, 3)."""
    return read_picture(path).pixels


def read_crop(path: Path, size: int) -> NDArray[np.uint8]:
    """Return the pixels of `read_picture`'s crop, uint8 (size, size, 3)."""
    return read_picture(path, size).pixels


def read_square(path: Path, size: int) -> Picture:
    """Decode an image file and resize its centre square to `size` pixels (Lanczos), as U-ViT's protocol for MS-COCO has
    it. Raises UnreadableImageError.
    """

    def read(image: Image.Image) -> Picture:
        from PIL import Image

        upright, turned = _upright(image)
        side = min(upright.size)
        left, top = (upright.width - side) // 2, (upright.height - side) // 2
        flat, transparent = _flat(upright.crop((left, top, left + side, top + side)))
        return Picture(np.asarray(flat.resize((size, size), Image.Resampling.LANCZOS)), turned, transparent)

    return _decoded(path, read)


def read_crops(path: Path, size: int, places: NDArray[np.float64]) -> Picture:
    """Decode an image file and cut squares out of it at random places, as HMAR's training does.

    places (K, 2): shares in [0, 1) of the way from left to right and from top to bottom; the pixels of the result are
    uint8 (K, size, size, 3). The shorter side becomes 1.125·size (Lanczos) first. Raises UnreadableImageError.
    """

    def read(image: Image.Image) -> Picture:
        upright, turned = _upright(image)
        flat, transparent = _flat(upright)
        return Picture(np.stack([_square(flat, size, place) for place in places]), turned, transparent)

    return _decoded(path, read)


@dataclass(frozen=True)
class Checked:
    """What is known of a file that can be read: height and width of its picture, and what was done to it."""

    size: tuple[int, int]
    turned: bool
    transparent: bool


def check_image(path: Path) -> Checked:
    """Return what `read_picture` would make of a file, without its pixels. Raises UnreadableImageError.

    The whole file is decoded, a JPEG to few pixels, so that what passes can be read later too.
    """

    def check(image: Image.Image) -> Checked:
        width, height = image.size
        drafted = image.format == "JPEG"
        if drafted:
            image.draft(None, (1, 1))
        upright, turned = _upright(image)
        _, transparent = _flat(upright)
        size = (upright.height, upright.width)
        if drafted:
            size = (width, height) if _orientation(image) >= _ACROSS else (height, width)
        return Checked(size, turned, transparent)

    return _decoded(path, check)


def image_endings() -> frozenset[str]:
    """Return the endings, as ".png", of the formats that can be decoded here, plugins of Pillow included."""
    from PIL import Image

    known = Image.registered_extensions()
    return frozenset(ending for ending, kind in known.items() if kind in Image.OPEN and kind not in NOT_DECODED)


def _decoded(path: Path, use: Callable[[Image.Image], T]) -> T:
    """Return what `use` makes of the opened image. Raises UnreadableImageError."""
    try:
        if path.exists() and not path.is_file():
            raise UnreadableImageError("it is not a plain file")  # Opening a pipe would wait for ever.
        try:
            return _opened(path, use)
        except ValueError as error:
            if "MAX_TEXT" not in str(error):
                raise
            return _opened(without_texts(path), use)
    except UnreadableImageError:
        raise
    except BaseException as error:  # Decoders raise what they like, those written in Rust even no Exception.
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # It is not this file that is at fault.
        raise UnreadableImageError(_reason(error, path)) from error


def _opened(source: Path | IO[bytes], use: Callable[[Image.Image], T]) -> T:
    from PIL import Image

    # Pillow warns of large and of slightly broken files; what it can still decode is used. `catch_warnings` would not
    # do: it is not made for threads.
    if _PILLOWS_WARNINGS not in warnings.filters:
        warnings.filterwarnings("ignore", module=_PILLOWS_WARNINGS[3].pattern)
    Image.init()
    with Image.open(source, formats=[name for name in Image.ID if name not in NOT_DECODED]) as image:
        if image.mode not in _MODES_OF_8_BITS:
            raise UnreadableImageError(f"its mode is {image.mode}, not 8 bits per channel")
        with _ONE_LARGE if image.width * image.height >= _LARGE else nullcontext():
            return use(image)


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # Damaged EXIF costs no image.
        return 1
    return found if found in range(1, 9) else 1


def _upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """Return the image as its EXIF orientation says, and whether that turned it."""
    from PIL import Image

    before = _orientation(image) if image.format == "TIFF" else 1  # Loading turns that one and forgets it.
    image.load()
    after = _orientation(image)
    methods = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    return image.transpose(methods[after]) if after > 1 else image, before > 1 or after > 1


def _flat(image: Image.Image) -> tuple[Image.Image, bool]:
    """Return the image in RGB, on white, and whether any of it was transparent."""
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("RGB"), False
    coloured = image.convert("RGBA")
    if coloured.getchannel("A").getextrema()[0] == 255:
        return image.convert("RGB"), False
    white = Image.new("RGBA", coloured.size, "white")
    return Image.alpha_composite(white, coloured).convert("RGB"), True


def _middle(image: Image.Image, size: int) -> Image.Image:
    """Return what the crop of a long image needs: enlarged whole, a line of pixels would fill the memory."""
    short, long = sorted(image.size)
    if long <= _LONG * short:
        return image
    # As much beyond the square as the filters see, and an even number of pixels, so that the middle stays the middle.
    cut = (long - short) // 2 - _MARGIN * max(1, short // size)
    if cut <= 0:
        return image
    left, top = (cut, 0) if image.width == long else (0, cut)
    return image.crop((left, top, image.width - left, image.height - top))


def _crop(image: Image.Image, size: int) -> Image.Image:
    from PIL import Image

    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    left, top = (width - size) // 2, (height - size) // 2
    return image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))


def _square(image: Image.Image, size: int, place: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Cut a square of the image resized so that its shorter side is 1.125·size; only what it shows is resized."""
    from PIL import Image

    short = round(_WIDER * size)
    factor = short / min(image.size)
    sides = [short if side == min(image.size) else int(side * factor) for side in image.size]
    first = [int(share * (side - size + 1)) for share, side in zip(place, sides, strict=True)]
    # In the picture's own pixels; filters see those around the box, as if the whole were resized.
    box = [
        at * before / after
        for corner in (first, [at + size for at in first])
        for at, before, after in zip(corner, image.size, sides, strict=True)
    ]
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=(box[0], box[1], box[2], box[3])))


def _reason(error: BaseException, path: Path) -> str:
    text = str(error).replace(repr(str(path)), path.name).replace(str(path), path.name)
    text = " ".join(re.sub(r"<_io\.BytesIO object at 0x[0-9a-f]+>", path.name, text).split())[:_LONGEST_REASON]
    if isinstance(error, MemoryError):
        return "decoding it takes more memory than there is"
    if isinstance(error, OSError | SyntaxError | EOFError) or type(error) is ValueError:
        return text or type(error).__name__
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def without_texts(path: Path) -> io.BytesIO:
    """Return the PNG file without iCCP and texts, but for texts of at most 1 MiB that may hold an EXIF orientation.

    Pillow refuses an image for large ones, which no pixel needs.
    What follows a damaged chunk is left as it is, for the decoder to refuse. Raises OSError; ValueError for no PNG.
    """
    data = path.read_bytes()
    if not data.startswith(_SIGNATURE):
        raise ValueError(f"{path} is not a PNG file")
    kept = [_SIGNATURE]
    place = len(_SIGNATURE)
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if end > len(data):
            break
        if kind != b"iCCP" and (kind not in _TEXTS or _says_which_side_is_up(data[place + 8 : end - 4])):
            kept.append(data[place:end])
        place = end
    return io.BytesIO(b"".join([*kept, data[place:]]))


def _says_which_side_is_up(text: bytes) -> bool:
    keyword, _, rest = text.partition(b"\0")
    if keyword not in _ORIENTATION or len(text) > _LARGEST:
        return False
    for start in (1, 4):  # zTXt: a byte before what is compressed; iTXt: two, and two empty names' ends
        decoder = zlib.decompressobj()
        try:
            decoder.decompress(rest[start:], _LARGEST)
        except zlib.error:
            continue
        return not decoder.unconsumed_tail
    return True
