"""Defines what a generation returns, and what it reports while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from himar_kernels import InputError

from .png import write_png
from .recipe import Recipe

Status = Literal["complete", "cancelled"]


EVERY = slice(None)
"""All images of a generation."""


class PreviewSource(Protocol):
    """A generation under way, between two steps; see Progress for what the methods return, of the images of a part."""

    def low_latents(self, part: slice = EVERY) -> NDArray[np.float32]:
        """See Progress.low_latents."""
        ...

    def preview(self, part: slice = EVERY) -> NDArray[np.uint8]:
        """See Progress.preview."""
        ...

    def so_far(self, part: slice = EVERY) -> NDArray[np.uint8]:
        """See Progress.so_far."""
        ...


@dataclass(frozen=True)
class Progress:
    """A finished autoregressive step.

    Attributes:
        phase, step: which step it was, counted from 0 within its phase.
        done, total: steps finished and steps in all, over every chunk of the request.
        images: number of images that the step worked on.
        source: what the previews are made of, or None where there is no generation behind it.
        part: which of the source's images these are.
    """

    phase: str
    step: int
    done: int
    total: int
    images: int
    source: PreviewSource | None = field(default=None, repr=False, compare=False)
    part: slice = field(default_factory=lambda: EVERY, repr=False, compare=False)

    def of(self, first: int, images: int) -> Progress:
        """Return the same step of `images` images from the first on alone: their previews decode no others."""
        return replace(self, images=images, part=slice(first, first + images))

    def __str__(self) -> str:
        """Say which step it was, for a person: counted from 1, and a scale by itself, which has one step."""
        return self.phase if " " in self.phase else f"phase {self.phase}, step {self.step + 1}"

    def low_latents(self) -> NDArray[np.float32]:
        """Return the low-resolution latents float32 (B, C, s, s) of these images, VAE scale removed.

        Valid in the callback. Positions that are not revealed yet are 0 (of a DiT head: what it last made of them); all
        are revealed from the first high step on. On a GPU it waits for the device, which may be one step ahead.
        """
        return self._source().low_latents(self.part)

    def preview(self) -> NDArray[np.uint8]:
        """Return the low-resolution images uint8 (B, P, P, 3), RGB, P = s·H/h: low_latents through the VAE decoder.

        Valid in the callback; it takes the time of decoding B images of that size. Raises InputError when the model has
        no low phase or the bundle no VAE decoder, EngineError when the decoder takes no latents of this size or fails:
        the generation can then continue.
        """
        return self._source().preview(self.part)

    def so_far(self) -> NDArray[np.uint8]:
        """Return the images as far as they are, uint8 (B, P, P, 3), RGB: `preview` in phase low, then in full size.

        After a step of phase high, and of every scale in hmar, they have the size of the finished images; positions
        that are not revealed yet show what a DiT head last made of them, or with an MLP head a latent of 0.
        Valid in the callback, which waits for decoding. Raises as `preview` does, but not for a single scale.
        """
        return self._source().so_far(self.part)

    def _source(self) -> PreviewSource:
        if self.source is None:
            raise InputError("this progress belongs to no generation, so there is nothing to preview.")
        return self.source


@dataclass(frozen=True)
class Result:
    """The images of a request, in the order of its labels.

    A cancelled request holds the images that were finished when it was cancelled, possibly none.

    Attributes:
        images: uint8 (B, H, W, 3), RGB; None when the bundle has no VAE decoder.
        latents: float32 (B, C, h, w), VAE scale removed.
        labels: int64 (B,); -1 of an image from a text, and of an edit without a class.
        recipes: how each image was made.
        status: "complete" or "cancelled".
        arrays: what else the model's family gives, by name, the images along the first axis: of hi_mar "low_latents".
        truncated: indices of the request's prompts that were longer than the model's context and lost their end.
        seconds: of each phase, in their order, and of "decode", over all chunks, without the time in `on_step`; empty
            where no on_step was given. What comes before the first step counts to its phase.
    """

    images: NDArray[np.uint8] | None
    latents: NDArray[np.float32]
    labels: NDArray[np.int64]
    recipes: tuple[Recipe, ...]
    status: Status
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    truncated: tuple[int, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def low_latents(self) -> NDArray[np.float32]:
        """Low-resolution latents of hi_mar's phase low, VAE scale removed: float32 (B, C, s, s); s is 0 without one.

        Raises InputError when the model's family has none.
        """
        if "low_latents" not in self.arrays:
            raise InputError("this model's family has no low-resolution latents; use `latents`.")
        return self.arrays["low_latents"]

    def of(self, first: int, images: int) -> Result:
        """Return the result of `images` images from the first on alone; `seconds` are those of all."""
        part = slice(first, first + images)
        return replace(
            self,
            images=None if self.images is None else self.images[part],
            latents=self.latents[part],
            labels=self.labels[part],
            recipes=self.recipes[part],
            arrays={name: array[part] for name, array in self.arrays.items()},
            truncated=tuple(place - first for place in self.truncated if first <= place < first + images),
        )

    def save(self, folder: str | Path) -> list[Path]:
        """Write every image as a PNG that carries its recipe; return the paths.

        The folder is made if it is missing; files are named by their recipes (`Recipe.file_name`), and replaced if they
        exist.
        Raises InputError when the bundle has no decoder or the folder cannot be written.
        """
        if self.images is None:
            raise InputError("this bundle has no VAE decoder, so there are no images; use `latents` instead.")
        folder = Path(folder)
        paths = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for pixels, recipe in zip(self.images, self.recipes, strict=True):
                paths.append(folder / recipe.file_name())
                write_png(paths[-1], pixels, [recipe])
        except OSError as error:
            raise InputError(f"{folder} cannot be written: {error.strerror or error}.") from error
        return paths
