"""Recording the eager model: every draw of a run and its latents, and each component's inputs and outputs.

The layout is that of tests/golden/README.md, so a recording made here and one of the released model are verified alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from himar.model import HiMAR
from himar.sampler import to_grid, two_phase
from himar.vae import AutoencoderKL
from himar_kernels import Chain, Draws, Phase, SamplingConfig, known_positions, plan

Arrays = dict[str, NDArray[Any]]


class RecordingDraws:
    """Passes draws through and keeps them in a recording's layout; images are those of one batch, in order."""

    def __init__(self, inner: Draws, case: str, sampling: SamplingConfig, arrays: Arrays) -> None:
        self._inner, self._case, self._sampling, self._arrays = inner, case, sampling, arrays
        self._orders: dict[Phase, NDArray[np.int64]] = {}

    def order(self, phase: Phase, positions: int, images: NDArray[np.int64]) -> NDArray[np.int64]:
        """See himar_kernels.Draws."""
        self._orders[phase] = self._inner.order(phase, positions, images)
        if len(self._orders) == 2:
            low, high = self._orders["low"], self._orders["high"]
            self._arrays[f"{self._case}/orders"] = np.concatenate([low, high + low.shape[1]], axis=1)
        return self._orders[phase]

    def initial_noise(
        self, phase: Phase, step: int, images: NDArray[np.int64], positions: NDArray[np.int64], channels: int
    ) -> NDArray[np.float32]:
        """See himar_kernels.Draws; the step's noise of all diffusion steps is recorded here too."""
        initial = self._inner.initial_noise(phase, step, images, positions, channels)
        n = self._sampling.low_diffusion_steps if phase == "low" else self._sampling.high_diffusion_steps
        noise = self._inner.noise(phase, step, range(n - 1, -1, -1), images, positions, channels)
        prefix = self._prefix(phase, step)
        self._arrays[f"{prefix}/init_noise"] = _recorded(initial, phase)
        self._arrays[f"{prefix}/noise"] = np.stack([_recorded(each, phase) for each in noise])
        return initial

    def noise(
        self,
        phase: Phase,
        step: int,
        diffusion: Sequence[int],
        images: NDArray[np.int64],
        positions: NDArray[np.int64],
        channels: int,
    ) -> NDArray[np.float32]:
        """See himar_kernels.Draws."""
        return self._inner.noise(phase, step, diffusion, images, positions, channels)

    def _prefix(self, phase: Phase, step: int) -> str:
        overall = step if phase == "low" else self._sampling.low_steps + step
        return f"{self._case}/step{overall:03d}/{phase}"


def record(
    model: HiMAR,
    vae: AutoencoderKL | None,
    labels: Sequence[int],
    *,
    draws: Draws,
    sampling: SamplingConfig,
    case: str,
) -> Arrays:
    """Run the eager model and return a recording: the run under `case`, and one forward of every component.

    Component arrays follow the golden layout: in `t/`, the last image's row is unconditional.
    """
    arrays: Arrays = {}
    recorder = RecordingDraws(draws, case, sampling, arrays)
    result = two_phase(model, labels, draws=recorder, sampling=sampling)
    for step_number, step in enumerate(plan(sampling, model.config.low_positions, model.config.high_positions)):
        arrays[f"{case}/step{step_number:03d}/{step.phase}/guidance"] = np.array(step.guidance, np.float32)
    arrays |= {
        f"{case}/labels": np.asarray(labels, np.int64),
        f"{case}/temperature": np.array(sampling.temperature, np.float32),
        f"{case}/low_guidance": np.array(sampling.low_guidance, np.float32),
        f"{case}/high_guidance": np.array(sampling.high_guidance, np.float32),
        f"{case}/guidance_schedule": np.array(sampling.guidance_schedule),
        f"{case}/low_steps": np.array(sampling.low_steps),
        f"{case}/high_steps": np.array(sampling.high_steps),
        f"{case}/low_latent": to_grid(result.low_tokens).numpy(),
        f"{case}/latent": to_grid(result.tokens).numpy(),
    }
    shared = {
        "labels": arrays[f"{case}/labels"],
        "orders": arrays[f"{case}/orders"],
        "low_tokens": result.low_tokens.numpy(),
        "tokens": result.tokens.numpy(),
        "pivots": result.pivots.numpy(),
    }
    arrays |= {f"t/{name}": array for name, array in shared.items()}
    with torch.inference_mode():
        arrays |= _transformer_forwards(model, shared)
        arrays |= _head_forwards(model, shared["labels"], arrays["phase1/z"], arrays["phase2/z"])
        if vae is not None:
            latent = to_grid(result.tokens)[:1] / model.config.vae_scale
            arrays |= {"vae/latent": latent.numpy(), "vae/decoded": vae.decode(latent).numpy()}
    for name, steps in (("mlp", sampling.low_diffusion_steps), ("dit", sampling.high_diffusion_steps)):
        chain = Chain.build(steps)
        for table in ("timesteps", "betas", "alphas_cumprod"):
            arrays[f"schedule/{name}/{table}"] = np.asarray(getattr(chain, table), np.float64)
    return arrays


def _transformer_forwards(model: HiMAR, shared: Arrays) -> Arrays:
    """One forward of each phase with half of its positions masked, and of phase low with all masked."""
    S, N = model.config.low_positions, model.config.high_positions
    rows = torch.from_numpy(shared["labels"]).clone()
    rows[-1] = model.config.classes
    low_known = known_positions(shared["orders"][:, :S], (S + 1) // 2)
    high_known = known_positions(shared["orders"][:, S:] - S, (N + 1) // 2)
    none = np.zeros_like(low_known)
    low_tokens = torch.from_numpy(shared["low_tokens"])
    z_low = model.transformer_low(rows, low_tokens, torch.from_numpy(low_known))
    z_none = model.transformer_low(rows, low_tokens, torch.from_numpy(none))
    pivots, tokens = torch.from_numpy(shared["pivots"]), torch.from_numpy(shared["tokens"])
    z_high = model.transformer_high(rows, pivots, tokens, torch.from_numpy(high_known))
    batch = len(rows)
    return {
        "phase1/mask": np.concatenate([~low_known, np.ones((batch, N), bool)], axis=1).astype(np.float32),
        "phase1/z": z_low.numpy(),
        "phase1/z_all_masked": z_none.numpy(),
        "phase2/mask": np.concatenate([np.zeros((batch, S), bool), ~high_known], axis=1).astype(np.float32),
        "phase2/z": z_high.numpy(),
    }


def _head_forwards(
    model: HiMAR, labels: NDArray[np.int64], z_low: NDArray[np.float32], z_high: NDArray[np.float32]
) -> Arrays:
    """One forward of each head on conditions of the transformer, rows at different timesteps."""
    S, C, grid = model.config.low_positions, model.config.channels, model.config.grid
    generator = torch.Generator().manual_seed(0)
    c = torch.from_numpy(z_low[:, 0])
    timesteps = torch.linspace(999, 3, len(labels)).round().long()
    x = torch.randn(len(labels), C, generator=generator)
    grid_x = torch.randn(len(labels), C, grid, grid, generator=generator)
    z = to_grid(torch.from_numpy(z_high[:, S:]))
    return {
        "mlp/x": x.numpy(),
        "mlp/t": timesteps.numpy(),
        "mlp/c": c.numpy(),
        "mlp/out": model.mlp_head(x, timesteps, c).numpy(),
        "dit/x": grid_x.numpy(),
        "dit/t": timesteps.numpy(),
        "dit/z": z.numpy(),
        "dit/out": model.dit_head(grid_x, timesteps, z).numpy(),
    }


def _recorded(tokens: NDArray[np.float32], phase: Phase) -> NDArray[np.float32]:
    """(B, r, C) → rows (B·r, C) in phase low, grids (B, C, h, w) in phase high."""
    if phase == "low":
        return tokens.reshape(-1, tokens.shape[-1])
    return to_grid(torch.from_numpy(tokens)).numpy()
