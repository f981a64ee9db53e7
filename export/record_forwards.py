"""One forward of every component of the eager model, as a recording holds them (tests/golden/README.md)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from himar.mlp_head import MLPHead
from himar.model import HiMAR
from himar.sampler import to_grid
from himar_kernels import known_positions
from himar_runtime import ModelInfo, PhaseInfo

from .phases import phase_head
from .recordings import PHASE_ARRAYS, recorded_name

Arrays = dict[str, NDArray[Any]]


def transformer_forwards(model: HiMAR, info: ModelInfo, shared: Arrays) -> Arrays:
    """Return mask (B, L; 1 = masked) and z (B, L, D) of each phase with half of its positions masked.

    Phase low also has z with all masked. shared: labels, orders, tokens and, where there is a phase low, low_tokens and
    pivots; the last row is taken as unconditional.
    """
    S, N = info.low_positions, info.high_positions
    rows = torch.from_numpy(shared["labels"]).clone()
    rows[-1] = info.classes
    batch = len(rows)
    known = known_positions(shared["orders"][:, S:] - S, (N + 1) // 2)
    pivots = None if info.single_scale else torch.from_numpy(shared["pivots"])
    z_high = model.transformer_high(rows, pivots, torch.from_numpy(shared["tokens"]), torch.from_numpy(known))
    arrays = {
        "phase2/mask": np.concatenate([np.zeros((batch, S), bool), ~known], axis=1).astype(np.float32),
        "phase2/z": z_high.numpy(),
    }
    if info.single_scale:
        return arrays
    low_tokens = torch.from_numpy(shared["low_tokens"])
    low_known = known_positions(shared["orders"][:, :S], (S + 1) // 2)
    z_low, z_none = (
        model.transformer_low(rows, low_tokens, torch.from_numpy(seen))
        for seen in (low_known, np.zeros_like(low_known))
    )
    return arrays | {
        "phase1/mask": np.concatenate([~low_known, np.ones((batch, N), bool)], axis=1).astype(np.float32),
        "phase1/z": z_low.numpy(),
        "phase1/z_all_masked": z_none.numpy(),
    }


def head_forward(model: HiMAR, phase: PhaseInfo, arrays: Arrays) -> Arrays:
    """Return one forward of a phase's head on conditions of its transformer, rows at different timesteps.

    Arrays x, t, c or z, and out: of the phase's first position at an MLP head, of its whole grid at a DiT head.
    """
    head, name = phase_head(model, phase.name), recorded_name(phase.head)
    z = torch.from_numpy(arrays[f"{PHASE_ARRAYS[phase.name]}/z"])[:, phase.always : phase.always + phase.positions]
    batch, channels = len(z), model.config.channels
    generator = torch.Generator().manual_seed(0 if phase.name == "low" else 1)
    timesteps = torch.linspace(999, 3, batch).round().long()
    sides = () if isinstance(head, MLPHead) else (phase.side, phase.side)
    condition = z[:, 0] if isinstance(head, MLPHead) else to_grid(z)
    x = torch.randn(batch, channels, *sides, generator=generator)
    return {
        f"{name}/x": x.numpy(),
        f"{name}/t": timesteps.numpy(),
        f"{name}/{'c' if isinstance(head, MLPHead) else 'z'}": condition.numpy(),
        f"{name}/out": head(x, timesteps, condition).numpy(),
    }
