"""Computes a training step's loss as first written down, without what himar hoists, and counts its extra work."""

from __future__ import annotations

import torch
from torch import Tensor

from himar.families.hi_mar.config import ModelConfig
from himar.families.hi_mar.head_losses import add_noise, dit_head_loss, mlp_head_loss
from himar.families.hi_mar.loss_draws import BatchDraws
from himar.families.hi_mar.losses import HIGH_WEIGHT, LOW_WEIGHT
from himar.families.hi_mar.model import HiMAR
from himar_export.cost.cost import matmul
from himar_export.families.hi_mar.cost.networks import condition, dit_head, mlp_head, time_embedding, time_features


def plain_loss(model: HiMAR, tokens: Tensor, low_tokens: Tensor, draws: BatchDraws) -> Tensor:
    """Return the total loss, for the released model's form and one timestep per token."""
    low = draws.low
    assert low is not None
    positions = low_tokens.shape[1]
    z = model.transformer_low(model.without(draws.shown, low.dropped), low_tokens, ~low.masked)[:, :positions]
    # Timesteps and noise of masked positions are the step's; visible ones get any and are thrown away.
    t = torch.zeros(low.masked.shape, dtype=torch.long, device=tokens.device)
    noise = torch.zeros_like(low_tokens)
    t[low.masked], noise[low.masked] = low.t[0].flatten(), low.noise[0].flatten(0, 1)
    target, rows, noise_rows = low_tokens.flatten(0, 1), t.flatten(), noise.flatten(0, 1)
    prediction = model.mlp_head(add_noise(target, noise_rows, rows), rows, z.flatten(0, 1))
    mse, vb = mlp_head_loss(prediction.float(), target, noise_rows, rows)
    mask = low.masked.flatten()
    low_loss = ((mse + vb) * mask).sum() / mask.sum()

    without = ~low.masked | draws.hidden[:, None]
    pivots = model.cond_z_proj(z.detach())
    guide = torch.where(without[..., None], model.cond_proj(model.cond_tokens), pivots)
    shown = model.without(draws.shown, draws.high.dropped)
    z = model.run_high(shown, guide, tokens, ~draws.high.masked)[:, positions:]
    t, noise = draws.high.t[0], draws.high.noise[0]
    noised = add_noise(tokens, noise, t)
    prediction = model.dit_head.denoise(noised, t, model.dit_head.condition(z))
    with torch.no_grad():
        model.dit_head.denoise(noised, t, model.dit_head.condition(z))
    high_loss = dit_head_loss(prediction.float(), noise, draws.high.masked).mean()
    return LOW_WEIGHT * low_loss + HIGH_WEIGHT * high_loss


def plain_extra_flops(config: ModelConfig, draws: BatchDraws) -> int:
    """Return what a step with `plain_loss` does more: the MLP head where nothing is masked, a second DiT forward."""
    if draws.low is None or config.head_kinds != ("mlp", "dit"):
        return 0
    batch, N = draws.high.masked.shape
    visible = int((~draws.low.masked).sum())
    W = config.mlp_width
    more = mlp_head(config, visible) + condition(config, "mlp", visible) + time_embedding(visible, W)
    data = matmul(visible, config.channels, W) + time_features(visible, W)
    again = dit_head(config, batch, N) + condition(config, "dit", batch * N) + time_embedding(batch, config.dit_width)
    return 3 * more.flops - data.flops + again.flops
