"""The eager editor: a part of an image drawn anew around the codes that are kept (docs/editing.md).

The reference that engines are compared with; which cells are kept is `himar_kernels.families.hmar.editing`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from himar.images import to_pixels
from himar_kernels import to_values
from himar_kernels.arithmetic.editing import Edit, check_edit
from himar_kernels.families.hmar import Draws, Kept, SamplingConfig, edit_cells, edit_sampling

from .model import HMAR
from .sampler import Sampled, sample_codes
from .tokenizer.files import require_fit
from .tokenizer.network import Tokenizer


def edit(
    model: HMAR,
    tokenizer: Tokenizer,
    images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    masks: Sequence[NDArray[np.bool_]] | NDArray[np.bool_],
    labels: Sequence[int] | None = None,
    *,
    draws: Draws,
    sampling: SamplingConfig | None = None,
    first_index: int = 0,
) -> NDArray[np.uint8]:
    """Draw the masked part of each image anew: pixels uint8 (B, 16H, 16H, 3), outside the masks those given.

    Args:
        model, tokenizer: on the same device, any.
        images: RGB, uint8 (B, 16H, 16H, 3) or a list of such images.
        masks: bool, True where pixels are drawn; one for each image, or one (16H, 16H) for all.
        labels: class of each image, drawn with guidance; None draws what fits the rest, without class and guidance.
        draws, sampling, first_index: as for `generate`.

    Raises InputError and ConfigError as `generate` does, and InputError for images and masks that do not fit.
    """
    checked = check_edit(images, masks, model.config.img_size, labels)
    sampled = edit_codes(model, tokenizer, checked, labels, draws=draws, sampling=sampling, first_index=first_index)
    with torch.inference_mode():
        return checked.paste(to_pixels(tokenizer.decode(sampled.f_hat)))


def edit_codes(
    model: HMAR,
    tokenizer: Tokenizer,
    checked: Edit,
    labels: Sequence[int] | None,
    *,
    draws: Draws,
    sampling: SamplingConfig | None = None,
    first_index: int = 0,
) -> Sampled:
    """Edit as `edit` does, of what `check_edit` returned; return codes and latent."""
    settings = edit_sampling(sampling or model.config.default_sampling, labels is not None)
    model.config.check_sampling(settings)
    require_fit(tokenizer, model.config, "the tokenizer")
    kept = kept_codes(tokenizer, model, checked)
    return sample_codes(model, tokenizer, labels, draws=draws, sampling=settings, first_index=first_index, kept=kept)


@torch.inference_mode()
def kept_codes(tokenizer: Tokenizer, model: HMAR, checked: Edit) -> Kept:
    """Return the codes of the images with their holes filled, and the cells that are drawn anew."""
    scales = model.config.scales
    values = torch.from_numpy(to_values(checked.filled())).to(model.pos_1LC.device)
    return Kept(tokenizer.encode(values, scales).cpu().numpy(), edit_cells(checked.masks, scales))
