"""Scores how well images show their prompts: the mean of 100·max(cos, 0) of a CLIP model's vectors of both.

The scale is torchmetrics' and most papers'; CLIPScore's own paper (arXiv 2104.08718) has 2.5 in place of 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from himar_kernels import InputError
from himar_kernels.text import Tokenizer

from ..device import usable_device
from ..loading.checkpoint_files import weights_sha256
from ..text.clip import load_clip
from ..text.encoder import require_tokenizer
from ..text.pixels import PixelSettings
from .extractor import OnImages
from .image_sets import ImageSet, archive_names
from .samples import PROMPTS

SCALE = 100.0


@dataclass(frozen=True)
class ClipScore:
    """What came out: score, the mean over images, and scale, what a cosine of 1 would have.

    cut: how many prompts are longer than the text tower takes and lost their end; clip_sha256: of the model's weights.
    """

    score: float
    scale: float
    images: int
    cut: int
    clip_sha256: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


class ClipScorer:
    """A CLIP model, its tokenizer and how it takes images, of one folder."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        """Load the model. Raises CheckpointError, ConfigError or InputError when a part is missing or wrong."""
        self._device = usable_device(device)
        self._clip = load_clip(folder)
        self._tokenizer = Tokenizer.open(folder)
        require_tokenizer(self._tokenizer, self._clip.text, folder)
        self._pixels = PixelSettings.open(folder, self._clip.vision.config.size)
        self._clip.to(self._device)
        self._sha256 = weights_sha256(folder)

    def __call__(
        self, images: ImageSet, prompts: Sequence[str], batch: int = 64, on_images: OnImages | None = None
    ) -> ClipScore:
        """Score images, each by the prompt of its place; batch: images at once; on_images gets (done, all).

        Raises InputError for another number of prompts, a prompt that cannot be encoded, images that cannot be read,
        and vectors that are not finite.
        """
        if len(prompts) != images.count:
            raise InputError(f"{images.source} has {images.count} images and {len(prompts)} prompts; give one each.")
        ids, cut = self._tokenizer.ids(prompts)
        total, done = 0.0, 0
        for pixels in images.batches(batch):
            seen = self._clip.image_features(self._pixels(pixels))
            read = self._clip.text_features(ids[done : done + len(pixels)])
            cosines = (seen * read).sum(dim=1).double().cpu().numpy()
            broken = ~np.isfinite(cosines)
            if broken.any():
                raise InputError(
                    f"the CLIP score of image {done + int(broken.argmax())} is not finite; the weights of the CLIP "
                    f"model are damaged."
                )
            total += float(cosines.clip(0).sum())
            done += len(pixels)
            if on_images:
                on_images(done, images.count)
        return ClipScore(SCALE * total / images.count, SCALE, images.count, len(cut), self._sha256)


def read_image_prompts(source: Path) -> tuple[str, ...]:
    """Return the prompts that stand beside an .npz's images, one of each.

    Raises InputError for a folder, an .npz without prompts, and prompts that are not one text per image.
    """
    advice = f"himar evaluate --captions writes them, or numpy.savez(FILE, arr_0=images, {PROMPTS}=texts)"
    if source.is_dir():
        raise InputError(f"{source} is a folder, whose images have no prompts; give an .npz with both: {advice}.")
    names = archive_names(source)
    if PROMPTS not in names:
        raise InputError(
            f"{source} has no {PROMPTS} beside its images, only {', '.join(names[:8]) or 'nothing'}; {advice}."
        )
    try:
        with np.load(source, allow_pickle=False) as file:
            found = file[PROMPTS]
    except ValueError as error:
        raise InputError(f"{PROMPTS} of {source} are not texts ({error}); {advice}.") from error
    except Exception as error:  # a damaged archive fails in zipfile, zlib or NumPy, each in its own way
        raise InputError(f"{source} is damaged ({error}); write it again.") from error
    if found.dtype.kind != "U" or found.ndim != 1:
        raise InputError(f"{PROMPTS} of {source} are {found.dtype} {found.shape}, not a text per image; {advice}.")
    return tuple(found.tolist())
