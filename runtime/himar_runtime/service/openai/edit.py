"""Reads the body of POST /v1/images/edits: a form with an image, a mask of what is drawn anew, and OpenAI's fields."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels.arithmetic.editing import Edit, check_edit, check_rings

from ...bundle.manifest import Manifest
from ...edit_files import as_mask, open_picture, transparency
from ...families.family import require_editing, runtime_family
from ..request import RefusalError
from .form import parse_form
from .request import IGNORED, TAKEN, Generation, about, check_known, read_fields, wrong

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "WEBP", "JPEG")
"""Of images that are edited, and of masks."""

_PICTURES = {"image": "image", "image[]": "image", "mask": "mask"}
_IGNORED = (*IGNORED, "input_fidelity")  # what the mask keeps is kept exactly
_OWN = ("dilation", "feather")
_NUMBERS = ("n", "partial_images", "output_compression", "seed", "guidance_scale", *_OWN)
_ADVICE = "send a PNG, WebP or JPEG file"


def most_bytes(max_body: int, side: int) -> int:
    """Return how many bytes an edit's form may have: two uncompressed RGBA images more than other bodies."""
    return max_body + 2 * 4 * side * side


def read_edit(
    body: bytes, content_type: str, manifest: Manifest, models: tuple[str, ...], max_images: int
) -> Generation:
    """Read and check a form; its images are decoded here.

    Args:
        content_type: the header, which has the form's boundary.
        models, max_images: as for `read_generation`.

    Raises RefusalError with the field that is wrong, or InputError for a body that is no form.
    """
    require_editing(manifest, "this bundle")
    form = parse_form(body, content_type)
    check_known(form, ("image", "mask", *TAKEN, *_OWN), ("image[]", *_IGNORED))
    pictures: dict[str, list[bytes]] = {"image": [], "mask": []}
    for name, contents in form.items():
        if name in _PICTURES:
            pictures[_PICTURES[name]] += contents
    image, mask = _one_image(pictures["image"]), _one_mask(pictures["mask"])
    fields = {name: _field(name, contents) for name, contents in form.items() if name not in _PICTURES}
    side = manifest.model.img_size
    dilation, feather = (fields.pop(name, None) for name in _OWN)
    with about("dilation"):
        rings = check_rings("dilation", runtime_family(manifest.family).dilation(dilation), side)
    with about("feather"):
        border = check_rings("feather", 0 if feather is None else feather, side)

    def read(count: int) -> Edit:
        edit = read_pictures(image, mask, side, border)
        return Edit(np.repeat(edit.images, count, axis=0), np.repeat(edit.masks, count, axis=0), rings, border)

    return read_fields(fields, manifest, models, max_images, read)


def read_pictures(image: bytes, mask: bytes | None, side: int, feather: int = 0) -> Edit:
    """Decode an image and what marks the part of it that is drawn anew.

    Of a mask with transparent pixels these are drawn, of one without the white ones; without a mask, the image's own
    transparent pixels. Raises RefusalError for what cannot be used, before decoding what has another size.

    feather: pixels over which what is under the mask will be seen.
    """
    with about("image"):
        picture = open_picture(io.BytesIO(image), "the image", _ADVICE, FORMATS, side)
        alpha = transparency(picture)
    if mask is None:
        if alpha is None:
            sentence = "there is no mask, and the image has no transparent pixels; send a mask of what is to be drawn."
            raise RefusalError(400, sentence, param="mask", code="missing_required_parameter")
        with about("image"):
            hole = _transparent(alpha, "the image's transparency")
    else:
        with about("mask"):
            hole = _read_mask(mask, side)
        if alpha is not None and (alpha[~hole] < 255).any():
            sentence = "the image is transparent where the mask keeps it; fill it there, or let the mask draw it."
            raise wrong("image", sentence)
    with about("image" if mask is None else "mask"):
        edit = check_edit([_rgb(picture)], [hole], side)
    if feather and alpha is not None:
        sentence = f"feather is {feather}, but the image under the mask, which it blends in, is transparent"
        raise wrong("feather", f"{sentence}; fill it there, or leave feather out.")
    return edit


def _rgb(picture: Image.Image) -> NDArray[np.uint8]:
    return np.array(picture.convert("RGB"))


def _read_mask(content: bytes, side: int) -> NDArray[np.bool_]:
    picture = open_picture(io.BytesIO(content), "the mask", _ADVICE, FORMATS, side)
    alpha = transparency(picture)
    if alpha is not None:
        return _transparent(alpha, "the mask")
    otherwise = "black nor white; paint white, or make transparent, what is to be drawn anew"
    return as_mask(np.array(picture.convert("L")), "the mask", otherwise)


def _transparent(alpha: NDArray[np.uint8], name: str) -> NDArray[np.bool_]:
    otherwise = "transparent nor opaque; make transparent what is to be drawn anew, and opaque what is to stay"
    return as_mask(255 - alpha, name, otherwise)


def _one_image(contents: Sequence[bytes]) -> bytes:
    if not contents:
        sentence = 'the form lacks "image"; send the image to be edited.'
        raise RefusalError(400, sentence, param="image", code="missing_required_parameter")
    if len(contents) > 1:
        raise wrong("image", f"{len(contents)} images are sent, but one is edited at a time; send a request for each.")
    return contents[0]


def _one_mask(contents: Sequence[bytes]) -> bytes | None:
    if len(contents) > 1:
        raise wrong("mask", f"{len(contents)} masks are sent for one image; send one.")
    return contents[0] if contents else None


def _field(name: str, contents: Sequence[bytes]) -> Any:
    """Return a field's value as JSON has it; None, the default, of an empty one."""
    if len(contents) > 1:
        raise wrong(name, f"{name} is sent {len(contents)} times; send it once.")
    try:
        text = contents[0].decode()
    except UnicodeDecodeError as error:
        raise wrong(name, f"{name} is not UTF-8 (byte {error.start}); send text encoded as UTF-8.") from error
    if text == "":
        return None
    if name == "stream":
        return {"true": True, "false": False}.get(text, text)
    return _number(text) if name in _NUMBERS else text


def _number(text: str) -> int | float | str:
    """A number of a form is written as in JSON; other text is left for its field's own sentence."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if type(value) in (int, float) else text
