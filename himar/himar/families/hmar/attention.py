"""Which cells attend to which: a scale's own cells, all scales at once without a mask, or all coarser ones (§4, §6).

Each of these maps q, k, v (R, heads, N, d) to (R, heads, N, d): softmax(q·k) · v with scale 1, since q and k are
normalised and q carries a learned factor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_WIDEST, _AMPERE = 256, (8, 0)
"""Widest head and oldest GPU that the fused kernel takes."""

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def own_scale(q: Tensor, k: Tensor, v: Tensor, scale: float = 1.0) -> Tensor:
    """Attend to all cells given, those of one scale."""
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


class EachScale:
    """Attend within each of several scales that stand one after the other, without a mask over all of them.

    On a GPU in half precision all scales of all rows are one fused launch, forward and backward (`fused_scales`); else
    each scale is an attention of its own.
    sizes: T_s of each, N = Σ T_s; starts: of `packed_starts`, on the GPU that is used, None for none.
    """

    def __init__(self, sizes: Sequence[int], scale: float = 1.0, starts: Tensor | None = None) -> None:
        self.sizes = list(sizes)
        self.scale = scale
        self.starts = starts

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See the module."""
        if self.starts is not None and can_fuse(q):
            return fused_scales(q, k, v, self.starts, max(self.sizes), self.scale)
        parts = zip(q.split(self.sizes, dim=2), k.split(self.sizes, dim=2), v.split(self.sizes, dim=2), strict=True)
        return torch.cat([own_scale(*part, scale=self.scale) for part in parts], dim=2)


def each_scale(sizes: Sequence[int], rows: int, device: torch.device) -> EachScale:
    """Return the attention within scales for so many rows on a device."""
    starts = packed_starts(sizes, rows).to(device) if device.type == "cuda" else None
    return EachScale(sizes, starts=starts)


def packed_starts(sizes: Sequence[int], rows: int) -> Tensor:
    """Return where every scale of every row begins, rows one after the other, and the end: int32 (R·S + 1)."""
    return torch.tensor([0, *list(sizes) * rows], dtype=torch.int32).cumsum(0, dtype=torch.int32)


def can_fuse(q: Tensor) -> bool:
    """Whether the fused kernel takes queries of this device, type and width; those of keys and values are the same."""
    if not q.is_cuda or q.dtype not in (torch.float16, torch.bfloat16):
        return False
    return q.shape[-1] % 8 == 0 and q.shape[-1] <= _WIDEST and torch.cuda.get_device_capability(q.device) >= _AMPERE


def fused_scales(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, scale: float) -> Tensor:
    """Attend within every scale of every row in one launch: (R, heads, N, d) to (R, heads, N, d).

    starts: see `packed_starts`; longest: cells of the largest scale.
    """
    from torch.nn.attention import varlen  # It imports a compiler, which sampling on a CPU need not wait for.

    rows, heads, length, width = q.shape
    q, k, v = (each.transpose(1, 2).reshape(rows * length, heads, width) for each in (q, k, v))
    mixed = varlen.varlen_attn(q, k, v, starts, starts, longest, longest, scale=scale)
    assert isinstance(mixed, Tensor)
    return mixed.view(rows, length, heads, width).transpose(1, 2)


class CoarserScales(EachScale):
    """Attend to a scale's own cells and to those of all coarser scales (VAR), in one pass over all scales."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See the module."""
        mixed, end = [], 0
        for size, part in zip(self.sizes, q.split(self.sizes, dim=2), strict=True):
            end += size
            mixed.append(own_scale(part, k[:, :, :end], v[:, :, :end], scale=self.scale))
        return torch.cat(mixed, dim=2)


class Cache:
    """Keeps keys and values of the scales that ran, for a run in which later scales attend to them (VAR).

    blocks: of the network that runs; `attends` gives each of them its own memory.
    """

    def __init__(self, blocks: int) -> None:
        self._kept: list[tuple[Tensor, Tensor] | None] = [None] * blocks

    def attends(self) -> list[Attend]:
        """Return the attention of every block; each call of one adds a scale to what it has kept."""

        def attend(block: int) -> Attend:
            def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                kept = self._kept[block]
                if kept is not None:
                    k, v = torch.cat([kept[0], k], dim=2), torch.cat([kept[1], v], dim=2)
                self._kept[block] = (k, v)
                return own_scale(q, k, v)

            return run

        return [attend(block) for block in range(len(self._kept))]
