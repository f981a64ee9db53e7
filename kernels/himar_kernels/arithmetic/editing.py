"""Images of which a part is drawn anew: checks, which cells a mask touches, what fills the hole, what is kept.

No family owns them. A mask is bool (B, P, P), True where pixels are drawn anew; images are uint8 (B, P, P, 3), RGB.
Whole numbers throughout, so that every language computes the same (docs/editing.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels.shared.errors import InputError

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Edit:
    """What is to be changed: images uint8 (B, P, P, 3), and masks bool (B, P, P) of the pixels to draw anew.

    dilation: rings of cells around the masks that are drawn too, where a family has that option; feather: pixels inside
    the masks' borders over which what is drawn is blended in.
    """

    images: Pixels
    masks: Mask
    dilation: int = 0
    feather: int = 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, part: slice | NDArray[np.int64]) -> Edit:
        return replace(self, images=self.images[part], masks=self.masks[part])

    def filled(self) -> Pixels:
        """Return the images with a neutral hole: the mean colour of the pixels outside it, rounded half up.

        Where nothing is outside, it is a middle grey.
        """
        images = self.images.copy()
        for image, mask in zip(images, self.masks, strict=True):
            kept = image[~mask].astype(np.int64)
            image[mask] = (2 * kept.sum(axis=0) + len(kept)) // (2 * len(kept)) if len(kept) else 128
        return images

    def paste(self, drawn: Pixels) -> Pixels:
        """Return what was drawn inside the masks, and outside them the images as they were given.

        With a feather of F pixels, those in the w-th ring from a mask's border, w ≤ F, are w parts of F+1 what was
        drawn and the rest what was given, rounded half up.
        """
        if not self.feather:
            return np.where(self.masks[..., None], drawn, self.images)
        whole = self.feather + 1
        inside, weight = self.masks, self.masks.astype(np.int64)
        for _ in range(self.feather):
            inside = ~widened(~inside)
            weight += inside
        part = weight[..., None]
        blended: Pixels = ((part * drawn + (whole - part) * self.images + whole // 2) // whole).astype(np.uint8)
        return blended

    def hashes(self) -> list[tuple[str, str]]:
        """Return the SHA-256 of each image's pixels and of its mask, a byte per pixel, as hex."""
        both = zip(self.images, self.masks, strict=True)
        return [(_sha256(image), _sha256(mask.astype(np.uint8))) for image, mask in both]


def check_edit(
    images: Any,
    masks: Any,
    side: int,
    labels: Sequence[Any] | NDArray[np.int64] | None = None,
    *,
    dilation: int = 0,
    feather: int = 0,
) -> Edit:
    """Return images and masks as an Edit of a model whose images have this side.

    Args:
        images: uint8 (B, side, side, 3), or a list of such images.
        masks: bool (B, side, side) or a list, one for each image; one (side, side) is for all images.
        labels: a class or a prompt for each image, or None.
        dilation, feather: of the Edit, 0 … side.

    Raises InputError for other sides, types or counts, and for a mask that is empty or full.
    """
    pixels = [_array(image, "image", place) for place, image in enumerate(_listed(images, "images"))]
    for place, image in enumerate(pixels):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InputError(
                f"image {place} has type {image.dtype} and shape {image.shape}; give RGB pixels uint8 (height, width, "
                f"3), 0 to 255."
            )
        _require_side(f"image {place} has", image.shape[:2], side)
    shared = isinstance(masks, np.ndarray) and masks.ndim == 2
    given = [masks] * len(pixels) if shared else _listed(masks, "masks")
    if len(given) != len(pixels):
        raise InputError(f"{len(pixels)} images and {len(given)} masks are given; give one mask per image, or one.")
    if labels is not None and len(labels) != len(pixels):
        kind = "prompt" if len(labels) and isinstance(labels[0], str) else "label"
        raise InputError(f"{len(pixels)} images and {len(labels)} {kind}s are given; give one {kind} per image.")
    checked = [_mask(_array(mask, "mask", place), place, side) for place, mask in enumerate(given)]
    rings, pixels_wide = (check_rings(*each, side) for each in (("dilation", dilation), ("feather", feather)))
    return Edit(np.stack(pixels), np.stack(checked), rings, pixels_wide)


def check_rings(name: str, value: int, side: int) -> int:
    """Return a dilation or feather as Python's int; InputError unless it is a whole number from 0 to the side."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value <= side:
        raise InputError(f"{name} is {value!r}; it must be a whole number from 0 to {side}, the side of the images.")
    return int(value)


def touched_cells(masks: Mask, side: int) -> Mask:
    """Return bool (B, side, side), True where any part of a cell is inside the mask (B, P, P), P ≥ side.

    Cell i of a side covers rows ⌊i·P/side⌋ … ⌈(i+1)·P/side⌉-1, so that neighbours share a row where side ∤ P.
    """
    whole = masks.shape[1]
    spans = [slice(i * whole // side, -(-(i + 1) * whole // side)) for i in range(side)]
    rows = np.stack([masks[:, span].any(axis=1) for span in spans], axis=1)
    return np.stack([rows[:, :, span].any(axis=2) for span in spans], axis=2)


def widened(cells: Mask) -> Mask:
    """Return cells (B, p, p) with the ring of cells around them, at corners too; of a mask, cells are pixels."""
    side = cells.shape[1]
    around = np.pad(cells, ((0, 0), (1, 1), (1, 1)))
    shifted = [around[:, row : row + side, column : column + side] for row in range(3) for column in range(3)]
    return np.logical_or.reduce(shifted)


def place_on_canvas(image: Pixels, side: int, left: int, top: int) -> tuple[Pixels, Mask]:
    """Place an image (h, w, 3) on a canvas; return the canvas (side, side, 3) and its border as a mask.

    left, top: of the image on the canvas. The border is black: nothing of it is read. Raises InputError where the image
    does not lie wholly on the canvas.
    """
    height, width = image.shape[:2]
    if not (0 <= left <= side - width and 0 <= top <= side - height):
        raise InputError(
            f"an image of {width} × {height} pixels placed at {left},{top} is not wholly on the canvas of {side} × "
            f"{side}; place it elsewhere or make it smaller."
        )
    canvas, mask = np.zeros((side, side, 3), np.uint8), np.ones((side, side), np.bool_)
    inside = slice(top, top + height), slice(left, left + width)
    canvas[inside], mask[inside] = image, False
    return canvas, mask


def _listed(given: Any, name: str) -> Sequence[Any]:
    is_array = isinstance(given, np.ndarray) and given.ndim > 0
    if not is_array and (isinstance(given, str) or not isinstance(given, Sequence)):
        raise InputError(f"{name} is {given!r:.80}; give a list of arrays, or an array of them.")
    if not len(given):
        raise InputError(f"{name} is empty; give at least one image and its mask.")
    return list(given)


def _array(given: Any, what: str, place: int) -> NDArray[Any]:
    if not isinstance(given, np.ndarray):
        raise InputError(f"{what} {place} is of type {type(given).__name__}; give a NumPy array of its pixels.")
    return given


def _require_side(what: str, shape: tuple[int, ...], side: int) -> None:
    if shape != (side, side):
        raise InputError(
            f"{what} {shape[1]} × {shape[0]} pixels, but the model's images have {side} × {side}; crop or resize it "
            f"first, or place a smaller image on a canvas."
        )


def _mask(mask: NDArray[Any], place: int, side: int) -> Mask:
    if mask.dtype != np.bool_ or mask.ndim != 2:
        raise InputError(
            f"mask {place} has type {mask.dtype} and shape {mask.shape}; give booleans (height, width), True where "
            f"pixels are drawn anew."
        )
    if mask.shape != (side, side):
        raise InputError(
            f"mask {place} has {mask.shape[1]} × {mask.shape[0]} pixels, but its image has {side} × {side}; give a "
            f"mask of the image's size."
        )
    if not mask.any():
        raise InputError(f"mask {place} is empty, so there is nothing to draw; mark the pixels to change.")
    if mask.all():
        raise InputError(f"mask {place} covers the whole image, so nothing is kept; generate an image instead.")
    return mask


def _sha256(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
