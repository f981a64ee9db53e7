"""The eager editor: a part of an image drawn anew around what is known of it (docs/editing.md).

The reference that engines are compared with; which positions are drawn is `himar_kernels.families.hi_mar.editing`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from himar.images import to_pixels
from himar.vae.autoencoder import AutoencoderKL, require_fit
from himar_kernels import Draws, to_values
from himar_kernels.arithmetic.editing import Edit, check_edit
from himar_kernels.arithmetic.resize import resized_values
from himar_kernels.families.hi_mar import DILATION, SamplingConfig, drawn_counts, drawn_positions, edit_sampling

from .model import HiMAR
from .sampler import Kept, TwoPhase, run_phases, to_grid, what_is_shown


def edit(
    model: HiMAR,
    vae: AutoencoderKL,
    images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    masks: Sequence[NDArray[np.bool_]] | NDArray[np.bool_],
    labels: Sequence[int] | None = None,
    *,
    contexts: Tensor | None = None,
    draws: Draws,
    sampling: SamplingConfig | None = None,
    dilation: int = DILATION,
    feather: int = 0,
    first_index: int = 0,
) -> NDArray[np.uint8]:
    """Draw the masked part of each image anew: pixels uint8 (B, P, P, 3), outside the masks those given.

    Args:
        model, vae: on the same device, any.
        images: RGB, uint8 (B, P, P, 3) or a list of such images.
        masks: bool, True where pixels are drawn; one for each image, or one (P, P) for all.
        labels, contexts: what each image is to show, as for `generate`; neither draws what fits the rest, without
            guidance.
        draws, sampling, first_index: as for `generate`.
        dilation: rings of cells around the masks' that are drawn too; feather: pixels inside the masks' borders over
            which what is drawn is blended in.

    Raises InputError and ConfigError as `sample_images` does, and InputError for images and masks that do not fit.
    """
    config = model.config
    given = labels if contexts is None else np.arange(len(contexts))
    checked = check_edit(images, masks, config.img_size, given, dilation=dilation, feather=feather)
    made = edit_tokens(
        model, vae, checked, labels, contexts=contexts, draws=draws, sampling=sampling, first_index=first_index
    )
    with torch.inference_mode():
        return checked.paste(to_pixels(vae.decode(to_grid(made.tokens) / config.vae_scale)))


def edit_tokens(
    model: HiMAR,
    vae: AutoencoderKL,
    checked: Edit,
    labels: Sequence[int] | None = None,
    *,
    contexts: Tensor | None = None,
    draws: Draws,
    sampling: SamplingConfig | None = None,
    first_index: int = 0,
) -> TwoPhase:
    """Edit as `edit` does, of what `check_edit` returned; return the tokens. Pivots are those of drawn positions."""
    config = model.config
    require_fit(vae, config, "the VAE")
    asked = labels is not None or contexts is not None
    settings = edit_sampling(sampling or config.default_sampling, asked)
    if asked:
        shown = what_is_shown(config, labels, contexts)
    else:
        rows = (len(checked), *(config.context_shape or ()))
        shown = model.unconditional(torch.zeros(rows, dtype=torch.float32 if config.from_text else torch.int64))
    kept = _kept(model, vae, checked)
    images = np.arange(first_index, first_index + len(checked))
    _, groups = np.unique(drawn_counts(checked, config), axis=0, return_inverse=True)
    places = [np.flatnonzero(groups.reshape(-1) == group) for group in range(groups.max() + 1)]
    parts = [run_phases(model, shown[part], images[part], draws, settings, None, _some(kept, part)) for part in places]
    back = torch.from_numpy(np.argsort(np.concatenate(places)))
    tokens, low_tokens, pivots = (
        torch.cat([getattr(part, name) for part in parts])[back] for name in ("tokens", "low_tokens", "pivots")
    )
    return TwoPhase(tokens, low_tokens, pivots)


@torch.inference_mode()
def _kept(model: HiMAR, vae: AutoencoderKL, checked: Edit) -> Kept:
    """Return the tokens of the images at both sizes, their holes filled, and what of them is not drawn."""
    config, device = model.config, model.mask_token.device
    drawn = drawn_positions(checked, config)

    def tokens(values: NDArray[np.float32]) -> Tensor:
        mean, _ = vae.encode(torch.from_numpy(values).to(device))
        return mean.flatten(2).transpose(1, 2) * config.vae_scale

    filled = checked.filled()
    low = torch.zeros(len(checked), 0, config.channels, device=device)
    if not config.single_scale:
        low = tokens(resized_values(filled, config.cond_scale * config.vae_stride))
    return Kept(~drawn["low"], ~drawn["high"], low, tokens(to_values(filled)))


def _some(kept: Kept, places: NDArray[np.int64]) -> Kept:
    there = torch.from_numpy(places)
    return Kept(kept.low_known[places], kept.high_known[places], kept.low_tokens[there], kept.tokens[there])
