"""Draws the captions of MS-COCO's protocol for models from text: of each of some images, one of its captions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from himar_kernels import InputError

IMAGES = 30_000
"""How many the protocol takes (U-ViT, arXiv 2209.12152, and the paper after it)."""


def draw_prompts(captions: Sequence[Sequence[str]], images: int, seed: int, source: str) -> tuple[str, ...]:
    """Return the prompts of `images` images: these drawn without repetition, and of each one caption, uniformly.

    captions: of every image there is, at least one. The seed alone decides; fewer images are the first ones of more.
    source: what errors call the captions. Raises InputError for more images than there are.
    """
    if images > len(captions):
        raise InputError(
            f"{images} images were asked for, but {source} has captions of {len(captions)}; ask for at most as many "
            f"with --images."
        )
    generator = np.random.Generator(np.random.Philox(key=seed))
    # Two numbers for every image there is, so that neither draw depends on how many are asked for.
    order, share = generator.random((2, len(captions)))
    chosen = np.argsort(order, kind="stable")[:images]
    return tuple(captions[image][int(share[image] * len(captions[image]))] for image in chosen)
