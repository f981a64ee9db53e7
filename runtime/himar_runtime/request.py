"""Defines a request as a family's loop gets it, and the checks that all families share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from himar_kernels import InputError
from himar_kernels.arithmetic.editing import Edit

from .texts import Texts

NO_CLASS = -1
"""The label of an image that is made from a text, or edited without a class."""

_MOST_IMAGES = 2**32

SamplingT = TypeVar("SamplingT")
DrawsT = TypeVar("DrawsT")


@dataclass(frozen=True)
class Request(Generic[SamplingT, DrawsT]):
    """What to generate: labels int64 (B,), the image indices int64 (B,) that draws count by, and how.

    edit: of which images a part is drawn anew; None makes whole images. texts: what the images are made from, where
    that is not their class. Labels are then NO_CLASS, and may be in an edit.
    """

    labels: NDArray[np.int64]
    images: NDArray[np.int64]
    sampling: SamplingT
    draws: DrawsT
    edit: Edit | None = None
    texts: Texts | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, part: slice | NDArray[np.int64]) -> Request[SamplingT, DrawsT]:
        """Return the request for some of its images alone."""
        return replace(
            self,
            labels=self.labels[part],
            images=self.images[part],
            edit=None if self.edit is None else self.edit[part],
            texts=None if self.texts is None else self.texts[part],
        )


def chunks(kinds: Sequence[object], most: int) -> list[NDArray[np.int64]]:
    """Return the places of images that run together: of one kind, at most `most`, and as equally many as can be.

    kinds: of each image, anything that can be a key; they come in the order of their first image.
    """
    places: dict[object, list[int]] = {}
    for place, kind in enumerate(kinds):
        places.setdefault(kind, []).append(place)
    return [part for each in places.values() for part in np.array_split(np.array(each), -(-len(each) // most))]


def image_indices(count: int, first_index: int) -> NDArray[np.int64]:
    """Return the image indices int64 (count,) that the draws count by; InputError outside 32 bits."""
    if isinstance(first_index, bool | np.bool_) or not isinstance(first_index, int | np.integer):
        raise InputError(f"first_index is {first_index!r}; it must be a whole number.")
    if not 0 <= first_index <= _MOST_IMAGES - count:
        raise InputError(f"first_index is {first_index}; it must be 0 to {_MOST_IMAGES - count}.")
    return np.arange(first_index, first_index + count)
