"""Writes and reads PNG files that carry the recipe of every image on them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from himar_kernels import InputError
from himar_kernels.shared.files import new_file

from .recipe import Recipe

_KEY = "himar"


def encode_png(pixels: NDArray[np.uint8], recipes: Sequence[Recipe]) -> bytes:
    """Return pixels uint8 (H, W, 3), RGB, as a PNG: one image, or a grid of several with a recipe each, row by row.

    The recipes stand as a JSON list in the text chunk "himar"; without any, as of an unfinished image, there is none.
    """
    from PIL import Image, PngImagePlugin

    text = PngImagePlugin.PngInfo()
    if recipes:
        text.add_text(_KEY, json.dumps([recipe.to_dict() for recipe in recipes]))
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, format="PNG", pnginfo=text)
    return encoded.getvalue()


def write_png(path: Path, pixels: NDArray[np.uint8], recipes: Sequence[Recipe]) -> None:
    """Write pixels as `encode_png` encodes them, in one move. Raises InputError if the file cannot be written."""
    with new_file(path) as unfinished:
        unfinished.write_bytes(encode_png(pixels, recipes))


def read_recipes(path: str | Path) -> tuple[Recipe, ...]:
    """Return the recipes of a PNG that himar wrote, one per image on it; InputError when there are none."""
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()  # text may also stand after the pixels
            text = image.text  # type: ignore[attr-defined]
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable PNG: {error}.") from error
    if _KEY not in text:
        raise InputError(f"{path} carries no himar recipe; it was made or rewritten by another program.")
    try:
        values = json.loads(text[_KEY])
    except json.JSONDecodeError as error:
        raise InputError(f"{path} carries a damaged recipe: {error}.") from error
    if not isinstance(values, list) or not values or not all(isinstance(recipe, dict) for recipe in values):
        raise InputError(f"{path} carries a damaged recipe: it is not a list of JSON objects.")
    return tuple(Recipe.from_dict(recipe, str(path)) for recipe in values)
