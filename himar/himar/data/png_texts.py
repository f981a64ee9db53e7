"""Strips PNG files of texts and colour profile: Pillow refuses images with large ones, which pixels do not need."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTATION = (b"Raw profile type exif", b"XML:com.adobe.xmp")
"""Texts that may say which side is up."""
_LARGEST = 2**20
"""Bytes of a text, expanded, that Pillow takes."""


def without_texts(path: Path) -> io.BytesIO:
    """Return the PNG file without iCCP and texts, but for texts of at most 1 MiB that may hold an EXIF orientation.

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
