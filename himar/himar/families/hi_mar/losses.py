"""Computes the whole model's training loss: both phases from one batch of tokens (docs/model.md §8)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from .dit_head import DiTHead
from .head_losses import add_noise, dit_head_loss, mlp_head_loss
from .loss_draws import BatchDraws, LossSettings, PhaseDraws, draw_batch
from .mlp_head import MLPHead
from .model import HiMAR

LOW_WEIGHT, HIGH_WEIGHT = 0.4, 0.6


@dataclass(frozen=True)
class Losses:
    """Scalars of both phases: squared error of the noise, and the MLP head's bound term (0 for a DiT head).

    Phase low's are 0 with a single scale, whose loss is the total.
    """

    low_mse: Tensor
    low_vb: Tensor
    high_mse: Tensor
    high_vb: Tensor
    single_scale: bool = False

    @property
    def low(self) -> Tensor:
        """Phase low's loss."""
        return self.low_mse + self.low_vb

    @property
    def high(self) -> Tensor:
        """Phase high's loss."""
        return self.high_mse + self.high_vb

    @property
    def total(self) -> Tensor:
        """What is minimised."""
        return self.high if self.single_scale else LOW_WEIGHT * self.low + HIGH_WEIGHT * self.high


def model_losses(
    model: HiMAR,
    tokens: Tensor,
    low_tokens: Tensor,
    shown: Tensor,
    settings: LossSettings,
    generator: torch.Generator,
) -> Losses:
    """Return both phases' losses for a batch.

    Args:
        model: the model; its gradients flow from every loss, save through the pivots.
        tokens, low_tokens: (B, N, C) and (B, S, C), the same images' tokens at both resolutions; a single scale
            ignores the low ones.
        shown: labels (B,), 0 … classes-1, or contexts (B, K, W) of a model from text.
        settings: probabilities and repeats.
        generator: source of every random number but dropout's, a CPU generator.
    """
    draws = draw_batch(model.config, shown.cpu(), settings, generator).to(tokens.device)
    return drawn_losses(model, tokens, low_tokens, draws)


def drawn_losses(
    model: HiMAR,
    tokens: Tensor,
    low_tokens: Tensor,
    draws: BatchDraws,
    autocast: AbstractContextManager[object] | None = None,
    empty: Tensor | None = None,
) -> Losses:
    """`model_losses` from numbers already drawn, on the tokens' device.

    empty: see `MaskedTransformer.without`.
    autocast: half precision for the networks, entered here and left for the losses themselves, which stay float32.
    """
    none = tokens.new_zeros(())
    with autocast or nullcontext():
        low_z, z = conditions(model, tokens, low_tokens, draws, empty)
        low_prediction = None
        if low_z is not None and draws.low is not None:
            low_prediction = _predict(model.low_head, low_z, low_tokens, draws.low)
        prediction = _predict(model.high_head, z, tokens, draws.high)
    low = (none, none)
    if draws.low is not None and low_prediction is not None:
        low = _loss(low_prediction.float(), low_tokens, draws.low)
    return Losses(*low, *_loss(prediction.float(), tokens, draws.high), single_scale=draws.low is None)


def conditions(
    model: HiMAR, tokens: Tensor, low_tokens: Tensor, draws: BatchDraws, empty: Tensor | None = None
) -> tuple[Tensor | None, Tensor]:
    """Return z of the low positions (B, S, D), None with a single scale, and of the high ones (B, N, D).

    Arguments are those of `drawn_losses`; gradients flow save through the pivots.
    """
    low_z, low_rows = None, None
    if draws.low is not None:
        shown = model.without(draws.shown, draws.low.dropped, empty)
        low_z = model.transformer_low(shown, low_tokens, ~draws.low.masked)[:, : low_tokens.shape[1]]
        low_rows = _low_rows(model, low_z, low_tokens, draws)
    shown = model.without(draws.shown, draws.high.dropped, empty)
    return low_z, model.run_high(shown, low_rows, tokens, ~draws.high.masked)[:, -tokens.shape[1] :]


def _low_rows(model: HiMAR, z: Tensor, low_tokens: Tensor, draws: BatchDraws) -> Tensor:
    """What phase high sees at the low positions (B, S, D): pivots, or `cond_tokens` in their place.

    Condition tokens are pivots where they were predicted, so not at positions visible in phase low; visual tokens
    are pivots everywhere. An image that is hidden has none.
    """
    assert draws.low is not None
    hidden = draws.hidden[:, None]
    if model.config.pivots == "visual":
        without, pivots = hidden.expand(-1, low_tokens.shape[1]), low_tokens
    else:
        without, pivots = ~draws.low.masked | hidden, z.detach()
    return torch.where(without[..., None], model.cond_proj(model.cond_tokens), model.guide(pivots))


def _predict(head: MLPHead | DiTHead, z: Tensor, target: Tensor, draws: PhaseDraws) -> Tensor:
    """Run a phase's head on noised tokens; z (B, n, D), target (B, n, C). Rows as `_loss` takes them."""
    repeats, t = len(draws.t), draws.t.flatten()
    if isinstance(head, MLPHead):
        z, target = (part[draws.masked].repeat(repeats, 1) for part in (z, target))
        return head(add_noise(target, draws.noise.flatten(0, 2), t), t, z)
    # Embedded once however many timesteps are drawn: the condition does not depend on them.
    condition = head.condition(z).repeat(repeats, 1, 1)
    return head.denoise(add_noise(target.repeat(repeats, 1, 1), draws.noise.flatten(0, 1), t), t, condition)


def _loss(prediction: Tensor, target: Tensor, draws: PhaseDraws) -> tuple[Tensor, Tensor]:
    """Means of squared error and bound term; an MLP head's prediction is (r·B·m, 2C), a DiT head's (r·B, n, C)."""
    repeats, t, weight = len(draws.t), draws.t.flatten(), draws.weight.flatten()
    if prediction.ndim == 2:
        target = target[draws.masked].repeat(repeats, 1)
        mse, vb = mlp_head_loss(prediction, target, draws.noise.flatten(0, 2), t)
        # Practised rows are not samples of the forward process, which the bound is about.
        return (weight * mse).mean(), (vb * (weight == 1)).mean()
    mse = dit_head_loss(prediction, draws.noise.flatten(0, 1), draws.masked.repeat(repeats, 1))
    return (weight * mse).mean(), prediction.new_zeros(())
