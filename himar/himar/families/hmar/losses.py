"""Training losses of both phases, from true codes and numbers already drawn (docs/hmar-model.md §7)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from himar_kernels import ConfigError
from himar_kernels.families.hmar import Scales

from .model import HMAR
from .tokenizer.network import Quantizer

Weighting = Literal["plain", "equal", "lognorm"]
Autocast = AbstractContextManager[object]


def scale_weights(scales: Scales, weighting: Weighting) -> NDArray[np.float64]:
    """Return w_s, float64 (S,): what each scale weighs in the next-scale loss.

    "plain" is its share of the cells; "equal" is 1, so that all sum to S; "lognorm", of every released recipe, is a
    normal density over the sides with the list reversed, normalised to a sum of 1. Raises ConfigError for another name.
    """
    if weighting == "plain":
        return np.array(scales.cells) / scales.tokens
    if weighting == "equal":
        return np.ones(len(scales))
    if weighting == "lognorm":
        sides = np.array(scales.sides[::-1]) / scales.side
        density = np.exp(-0.5 * np.square((sides - sides.mean()) / sides.std(ddof=1)))
        return density / density.sum()
    raise ConfigError(f"weighting is {weighting!r}; it must be one of {', '.join(map(repr, get_args(Weighting)))}.")


def cell_weights(scales: Scales, weighting: Weighting) -> NDArray[np.float64]:
    """Return w_s / T_s of every cell, float64 (L,)."""
    return np.repeat(scale_weights(scales, weighting) / scales.cells, scales.cells)


def next_scale_loss(
    model: HMAR,
    quantize: Quantizer,
    codes: Tensor,
    class_row: Tensor,
    weights: Tensor,
    kept: Tensor | None = None,
    autocast: Autocast | None = None,
) -> Tensor:
    """Return the next-scale network's loss, a scalar: the mean over images of its cells' weighted cross-entropy.

    Args:
        codes: true codes (B, L); what the network is given of them is computed without gradients, in float32.
        class_row: (B,), 0 … classes; `classes` where the label was dropped.
        weights: (L,) float32, see `cell_weights`.
        kept: (D, 2, B), factors of stochastic depth; None keeps every branch.
        autocast: half precision for the network, left for the loss itself.
    """
    return next_scale_scores(model, quantize, codes, class_row, weights, kept, autocast)[0]


def next_scale_scores(
    model: HMAR,
    quantize: Quantizer,
    codes: Tensor,
    class_row: Tensor,
    weights: Tensor,
    kept: Tensor | None = None,
    autocast: Autocast | None = None,
) -> Tensor:
    """Return (2,): the loss of `next_scale_loss`, and the share of cells whose code the network finds most likely."""
    with torch.no_grad():
        ahead, _ = quantize.inputs(model.config.scales, codes)
    with autocast or nullcontext():
        logits = model.next_scale_logits(class_row, ahead, kept)
    loss = (_cross_entropy(logits, codes) * weights).sum(dim=1).mean()
    return torch.stack([loss, _accuracy(logits, codes)])


def masked_loss(
    model: HMAR,
    quantize: Quantizer,
    codes: Tensor,
    class_row: Tensor,
    masked: Tensor,
    kept: Tensor | None = None,
    autocast: Autocast | None = None,
) -> Tensor:
    """Return the masked network's loss, a scalar: the mean cross-entropy over masked cells and images.

    masked: boolean (L,), the same cells for every image, none of scale 0; others as in `next_scale_loss`.
    """
    return masked_scores(model, quantize, codes, class_row, masked, kept, autocast)[0]


def masked_scores(
    model: HMAR,
    quantize: Quantizer,
    codes: Tensor,
    class_row: Tensor,
    masked: Tensor,
    kept: Tensor | None = None,
    autocast: Autocast | None = None,
) -> Tensor:
    """Return (2,): the loss of `masked_loss`, and the share of masked cells whose code is found most likely."""
    with torch.no_grad():
        ahead, own = quantize.inputs(model.config.scales, codes)
    with autocast or nullcontext():
        logits = model.masked_logits(class_row, ahead, own, masked, kept)
    logits, codes = logits[:, masked], codes[:, masked]
    return torch.stack([_cross_entropy(logits, codes).mean(), _accuracy(logits, codes)])


@torch.no_grad()
def _accuracy(logits: Tensor, codes: Tensor) -> Tensor:
    return (logits.argmax(dim=-1) == codes).float().mean()


def _cross_entropy(logits: Tensor, codes: Tensor) -> Tensor:
    """Logits (B, N, V) and codes (B, N) → (B, N), in float32."""
    return F.cross_entropy(logits.float().transpose(1, 2), codes, reduction="none")
