"""Guidance, filters and draws of a forward in PyTorch, where the model runs (§5.1-5.2).

A twin of `himar_kernels.families.hmar.code_draws`, which says the rules: float32 logits decide top-k, probabilities and
their sums are float64.
"""

from __future__ import annotations

import torch
from torch import Tensor


def guided(cond: Tensor, uncond: Tensor, weight: float) -> Tensor:
    """Return (1+t)·cond - t·uncond."""
    return (1 + weight) * cond - weight * uncond


def surviving(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Return boolean (…, V), True where a code survives both filters; 0 and 1 keep all."""
    keep = torch.ones_like(logits, dtype=torch.bool)
    if top_k:
        keep = logits >= logits.topk(top_k, dim=-1).values[..., -1:]
    if top_p < 1:
        left, order = logits.masked_fill(~keep, -torch.inf).sort(dim=-1, stable=True)
        total = (left.double() - left[..., -1:]).exp().cumsum(dim=-1)
        stays = total > (1 - top_p) * total[..., -1:]
        stays[..., -1] = True
        keep = keep & torch.empty_like(keep).scatter_(-1, order, stays)
    return keep


def draw_codes(logits: Tensor, keep: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Return the code that each row draws, int64 (…), and its probability among the survivors, float32 (…)."""
    each = survivors(logits.double(), keep).exp()
    total = each.cumsum(dim=-1)
    whole = total[..., -1]
    beyond = total > (uniforms.double() * whole)[..., None]
    place = torch.arange(keep.shape[-1], device=keep.device)
    last = torch.where(keep, place, -1).amax(dim=-1)
    codes = torch.where(beyond[..., -1], beyond.to(torch.uint8).argmax(dim=-1), last)
    return codes, (each.gather(-1, codes[..., None])[..., 0] / whole).float()


def smooth_weights(logits: Tensor, keep: Tensor, gumbel: Tensor, ratio: float) -> Tensor:
    """Return float32 weights (…, V) of a preview that mixes codes' vectors instead of drawing one (§5.3)."""
    temperature = max(0.27 * (1 - 0.95 * ratio), 0.005)
    noisy = ((1 + ratio) * logits.double() + gumbel) / temperature
    return survivors(noisy, keep).softmax(dim=-1).float()


def least_confident(confidence: Tensor, count: int | Tensor, among: Tensor) -> Tensor:
    """Return boolean (B, T), each image's `count` least confident cells of `among`; of equal ones the lower index.

    count: one for all images, or (B,).
    """
    order = confidence.masked_fill(~among, torch.inf).argsort(dim=1, stable=True)
    counts = torch.as_tensor(count, device=order.device).expand(len(order))
    first = torch.arange(order.shape[1], device=order.device) < counts[:, None]
    return torch.zeros_like(among).scatter_(1, order, first) & among


def survivors(values: Tensor, keep: Tensor) -> Tensor:
    """Return values less the largest survivor's, and -∞ for removed codes."""
    kept = values.masked_fill(~keep, -torch.inf)
    return kept - kept.amax(dim=-1, keepdim=True)
