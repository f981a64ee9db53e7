"""Prepares images as a CLIP model's vision tower takes them: resized, cropped and normalised."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from himar_kernels import CheckpointError

_FILES = ("preprocessor_config.json", "processor_config.json")
_BICUBIC = 3
"""Pillow's number of the filter."""
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")


@dataclass(frozen=True)
class PixelSettings:
    """How pixels become a vision tower's input; the defaults are CLIP's (arXiv 2103.00020 and its code).

    size: of the crop, in pixels; short: of the shorter side before it; mean, std: of red, green and blue in [0, 1].
    """

    size: int
    short: int
    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _STD

    @classmethod
    def open(cls, folder: Path, size: int) -> PixelSettings:
        """Read a folder's preprocessor_config.json, or CLIP's own settings where it has none; size: the tower's.

        Raises CheckpointError, naming the value, for a file that is damaged or asks for something else.
        """
        path = next((folder / name for name in _FILES if (folder / name).is_file()), None)
        values = {} if path is None else _values(path)
        if path is None or not values:
            return cls(size, size)
        for name, wanted in (("resample", _BICUBIC), ("rescale_factor", 1 / 255), *((step, True) for step in _STEPS)):
            found = values.get(name, wanted)
            if type(found) not in (bool, int, float) or abs(found - wanted) > 1e-6:
                raise CheckpointError(
                    f"{path} says {name} {found!r:.60}; himar prepares images as CLIP, with {wanted}."
                )
        crop = _side(values.get("crop_size", size), ("height", "width"), "crop_size", path)
        short = _side(values.get("size", size), ("shortest_edge",), "size", path)
        if crop != size:
            raise CheckpointError(
                f"{path} crops to {crop} pixels, and the vision tower takes {size}; take one model's."
            )
        if short < size:
            raise CheckpointError(
                f"{path} resizes to {short} pixels, less than the {size} of its crop; fetch it again."
            )
        return cls(size, short, *(_colours(values, name, path) for name in ("image_mean", "image_std")))

    def __call__(self, images: NDArray[np.uint8]) -> Tensor:
        """Map images (n, H, W, 3), RGB uint8, to float32 (n, 3, size, size).

        The short side is resized bicubically and the centre cropped.
        """
        found = np.stack([self._square(image) for image in images]).astype(np.float32) / np.float32(255)
        normal = (found - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return torch.from_numpy(normal).permute(0, 3, 1, 2).contiguous()

    def _square(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        from PIL import Image

        image = Image.fromarray(pixels)
        least = min(image.size)
        width, height = (self.short if side == least else int(self.short * side / least) for side in image.size)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(resized.crop((left, top, left + self.size, top + self.size)))


def _values(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}; fetch it again or remove it.") from error
    if path.name == _FILES[1] and isinstance(values, dict):
        values = values.get("image_processor", {})
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} does not hold a JSON object; fetch it again or remove it.")
    return values


def _side(value: Any, keys: tuple[str, ...], name: str, path: Path) -> int:
    """Return a side that is said by a number, or by an object with these keys, all of one value."""
    sides = {value} if type(value) is int else set()
    if isinstance(value, dict) and value.keys() == set(keys):
        sides = {each for each in value.values() if type(each) is int}
    if len(sides) != 1 or min(sides) < 1:
        wanted = " and ".join(keys)
        raise CheckpointError(f"{path} says {name} {value!r:.60}; himar takes a number of pixels, or one as {wanted}.")
    return sides.pop()


def _colours(values: dict[str, Any], name: str, path: Path) -> tuple[float, ...]:
    found = values.get(name, _MEAN if name == "image_mean" else _STD)
    numbers = isinstance(found, list | tuple) and all(type(each) in (int, float) for each in found)
    if not numbers or len(found) != 3 or (name == "image_std" and min(found) <= 0):
        raise CheckpointError(f"{path} says {name} {found!r:.60}, which is no number per colour; fetch it again.")
    return tuple(float(each) for each in found)
