"""Records the eager model: every draw of a run and its latents, and each component's inputs and outputs.

The layout is that of tests/golden/README.md, so a recording made here and one of the released model are verified alike.
Variants keep it as far as they have its parts: what belongs to a head is named after its component (`dit_low/x` of
dit_head_low), and noise has the shapes of the head's kind in whichever phase. A single scale has low_steps 0 and
nothing of phase low. A phase whose solver is not "ddpm" has no noise but the initial one; CASE/low_solver and
CASE/low_diffusion_steps (or high_…) say what it has. A model from text has CASE/contexts and t/contexts (B, K, W) in
place of labels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from himar.families.hi_mar.config import ModelConfig
from himar.families.hi_mar.mlp_head import MLPHead
from himar.families.hi_mar.model import HiMAR
from himar.families.hi_mar.sampler import to_grid, two_phase
from himar.vae.autoencoder import AutoencoderKL
from himar_export.families.hi_mar.phases import model_info, phase_head
from himar_kernels import Draws, PhiloxDraws, to_uint8, to_values
from himar_kernels.arithmetic.resize import resized_values
from himar_kernels.families.hi_mar import AnyChain, Chain, Phase, SamplingConfig, known_positions, phase_chains, plan
from himar_kernels.families.hi_mar.phases import HeadKind, ModelInfo, PhaseInfo

from .recordings import PHASE_ARRAYS, recorded_name

Arrays = dict[str, NDArray[Any]]

SELFTEST_HIGH_STEPS = 2
SELFTEST_CHAIN = 50
SELFTEST_FLOPS = 1e12


class RecordingDraws:
    """Passes draws through and keeps them in a recording's layout; images are those of one batch, in order."""

    def __init__(
        self, inner: Draws, case: str, sampling: SamplingConfig, phases: Sequence[PhaseInfo], arrays: Arrays
    ) -> None:
        self._inner, self._case, self._sampling, self._arrays = inner, case, sampling, arrays
        self._phases = {phase.name: phase for phase in phases}
        self._chains = phase_chains(sampling)
        self._orders: dict[Phase, NDArray[np.int64]] = {}

    def order(self, phase: Phase, positions: int, images: NDArray[np.int64]) -> NDArray[np.int64]:
        """See himar_kernels.Draws."""
        self._orders[phase] = self._inner.order(phase, positions, images)
        if len(self._orders) == len(self._phases):
            parts = [self._orders[name] + phase.always for name, phase in self._phases.items()]
            self._arrays[f"{self._case}/orders"] = np.concatenate(parts, axis=1)
        return self._orders[phase]

    def initial_noise(
        self, phase: Phase, step: int, images: NDArray[np.int64], positions: NDArray[np.int64], channels: int
    ) -> NDArray[np.float32]:
        """See himar_kernels.Draws; the step's noise of all diffusion steps is recorded here too."""
        initial = self._inner.initial_noise(phase, step, images, positions, channels)
        prefix = self._prefix(phase, step)
        kind = self._phases[phase].kind
        self._arrays[f"{prefix}/init_noise"] = _recorded(initial, kind)
        chain = self._chains[phase][step]
        if isinstance(chain, Chain):
            down = range(len(chain) - 1, -1, -1)
            noise = self._inner.noise(phase, step, down, images, positions, channels)
            self._arrays[f"{prefix}/noise"] = np.stack([_recorded(each, kind) for each in noise])
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
        before = self._sampling.low_steps if phase == "high" and "low" in self._phases else 0
        overall = before + step
        return f"{self._case}/step{overall:03d}/{phase}"


def record(
    model: HiMAR,
    vae: AutoencoderKL | None,
    shown: Sequence[int] | NDArray[np.float32],
    *,
    draws: Draws,
    sampling: SamplingConfig,
    case: str,
) -> Arrays:
    """Run the eager model and return a recording: the run under `case`, and one forward of every component.

    shown: a label of each image, or in a model from text their contexts (B, K, W). Component arrays follow the golden
    layout: in `t/`, the last image's row is unconditional.
    """
    arrays: Arrays = {}
    info = model_info(model.config)
    recorder = RecordingDraws(draws, case, sampling, info.phases, arrays)
    if info.context_shape is None:
        what, values = "labels", np.asarray(shown, np.int64)
        result = two_phase(model, values.tolist(), draws=recorder, sampling=sampling)
    else:
        what, values = "contexts", np.asarray(shown, np.float32)
        result = two_phase(model, contexts=torch.from_numpy(values), draws=recorder, sampling=sampling)
    for step_number, step in enumerate(plan(sampling, info.low_positions, info.high_positions)):
        arrays[f"{case}/step{step_number:03d}/{step.phase}/guidance"] = np.array(step.guidance, np.float32)
    arrays |= {
        f"{case}/{what}": values,
        f"{case}/temperature": np.array(sampling.temperature, np.float32),
        f"{case}/low_guidance": np.array(sampling.low_guidance, np.float32),
        f"{case}/high_guidance": np.array(sampling.high_guidance, np.float32),
        f"{case}/guidance_schedule": np.array(sampling.guidance_schedule),
        f"{case}/low_steps": np.array(0 if info.single_scale else sampling.low_steps),
        f"{case}/high_steps": np.array(sampling.high_steps),
        f"{case}/latent": to_grid(result.tokens).numpy(),
    }
    if not info.single_scale:
        arrays[f"{case}/low_latent"] = to_grid(result.low_tokens).numpy()
    shared = {
        what: values,
        "orders": arrays[f"{case}/orders"],
        "tokens": result.tokens.numpy(),
    }
    if not info.single_scale:
        shared |= {"low_tokens": result.low_tokens.numpy(), "pivots": result.pivots.numpy()}
    arrays |= {f"t/{name}": array for name, array in shared.items()}
    chains = phase_chains(sampling)
    for phase in info.phases:
        if sampling.solver(phase.name) != "ddpm":
            arrays[f"{case}/{phase.name}_solver"] = np.array(sampling.solver(phase.name))
            arrays[f"{case}/{phase.name}_diffusion_steps"] = np.array(len(chains[phase.name][0]))
    if sampling.needs_evaluations:
        arrays[f"{case}/sampling"] = np.array(json.dumps(sampling.to_dict()))
    with torch.inference_mode():
        arrays |= transformer_forwards(model, info, shared)
        for phase in info.phases:
            arrays |= head_forward(model, phase, arrays)
            name = recorded_name(phase.head)
            arrays |= _schedule(name, chains[phase.name][0])
            if f"{case}/{phase.name}_solver" in arrays:
                arrays[f"schedule/{name}/solver"] = arrays[f"{case}/{phase.name}_solver"]
        if vae is not None:
            latent = to_grid(result.tokens)[:1] / model.config.vae_scale
            arrays |= {"vae/latent": latent.numpy(), "vae/decoded": vae.decode(latent).numpy()}
    return arrays


def _schedule(name: str, chain: AnyChain) -> Arrays:
    """The tables of a head's chain; one without noise has no betas."""
    tables = ("timesteps", "betas", "alphas_cumprod") if isinstance(chain, Chain) else ("timesteps", "alphas_cumprod")
    return {f"schedule/{name}/{table}": np.asarray(getattr(chain, table), np.float64) for table in tables}


def _recorded(tokens: NDArray[np.float32], kind: HeadKind) -> NDArray[np.float32]:
    """(B, r, C) → rows (B·r, C) of an MLP head, grids (B, C, h, w) of a DiT head."""
    if kind == "mlp":
        return tokens.reshape(-1, tokens.shape[-1])
    return to_grid(torch.from_numpy(tokens)).numpy()


def transformer_forwards(model: HiMAR, info: ModelInfo, shared: Arrays) -> Arrays:
    """Return mask (B, L; 1 = masked) and z (B, L, D) of each phase with half of its positions masked.

    Phase low also has z with all masked. shared: labels or contexts, orders, tokens and, where there is a phase low,
    low_tokens and pivots; the last row is taken as unconditional.
    """
    S, N = info.low_positions, info.high_positions
    rows = torch.from_numpy(shared["labels" if info.context_shape is None else "contexts"]).clone()
    rows[-1:] = model.unconditional(rows[-1:])
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


@torch.inference_mode()
def record_editing(model: HiMAR, vae: AutoencoderKL, selftest: Mapping[str, NDArray[Any]]) -> Arrays:
    """Return what the components of editing give of a self-test's arrays (`t/`, `phase2/`, `vae/`).

    Arrays edit/image_u8 (1, P, P, 3) with latent (1, C, h, w) and low_latent (1, C, s, s), of its two sizes; and where
    low positions have pivots of their own, edit/low_known (B, S) with z (B, L, D): phase 2 with placeholders there.
    """
    info = model_info(model.config)
    pixels = to_uint8(selftest["vae/decoded"])
    arrays: Arrays = {"edit/image_u8": pixels, "edit/latent": _mean(vae, to_values(pixels))}
    if not info.single_scale:
        arrays["edit/low_latent"] = _mean(vae, resized_values(pixels, info.cond_scale * info.vae_stride))
    if info.edit_transformer is None:
        return arrays
    rows = torch.from_numpy(selftest["t/labels" if info.context_shape is None else "t/contexts"]).clone()
    rows[-1:] = model.unconditional(rows[-1:])
    S = info.low_positions
    known = torch.from_numpy(selftest["phase2/mask"][:, S:] == 0)
    low_known = known_positions(selftest["t/orders"][:, :S], (S + 1) // 2)
    guide = model.guide(torch.from_numpy(selftest["t/pivots"]))
    placeholders = model.cond_proj(model.cond_tokens)
    low_rows = torch.where(torch.from_numpy(low_known)[..., None], placeholders, guide)
    z = model.run_high(rows, low_rows, torch.from_numpy(selftest["t/tokens"]), known)
    return arrays | {"edit/low_known": low_known, "edit/z": z.numpy()}


def _mean(vae: AutoencoderKL, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean latents of images (B, 3, P, P), scale removed."""
    return vae.encode(torch.from_numpy(values))[0].numpy()


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


def record_selftest(model: HiMAR, vae: AutoencoderKL | None, case: str) -> Arrays:
    """Record a short guided run of two images through both phases, and one forward of each component."""
    config = model.config
    usual = config.default_sampling
    sampling = SamplingConfig(
        low_steps=min(2, max(config.low_positions, 1)),
        high_steps=min(SELFTEST_HIGH_STEPS, config.high_positions),
        low_guidance=_guided(usual.low_guidance),
        high_guidance=_guided(usual.high_guidance),
        low_diffusion_steps=SELFTEST_CHAIN,
        high_diffusion_steps=_affordable_chain(config, model_info(config).phase("high")),
    )
    shown = [0, config.classes - 1] if config.context_shape is None else _usual_contexts(model)
    return record(model, vae, shown, draws=PhiloxDraws(0), sampling=sampling, case=case)


def _usual_contexts(model: HiMAR) -> NDArray[np.float32]:
    """Return two contexts as large as the empty one, without a text tower: that one with noise of its size."""
    empty = model.empty_context.cpu().numpy()
    noise = np.random.default_rng(0).standard_normal((2, *empty.shape[1:])).astype(np.float32)
    return empty + noise * np.float32(empty.std() or 1)


def _affordable_chain(config: ModelConfig, phase: PhaseInfo) -> int:
    """Return the longest chain whose head fits the self-test's FLOPs; short ones magnify rounding (see verify).

    A DiT head runs over every position in each step, an MLP head once for every position.
    """
    if phase.kind == "dit":
        rows, multiplications = 4 * phase.positions, 18 * config.dit_width**2 * config.dit_depth
    else:
        rows, multiplications = 4 * phase.positions // SELFTEST_HIGH_STEPS, 5 * config.mlp_width**2 * config.mlp_depth
    one_step = 2 * rows * multiplications
    return int(min(max(SELFTEST_FLOPS / (SELFTEST_HIGH_STEPS * one_step), 12), SELFTEST_CHAIN))


def _guided(scale: float) -> float:
    """Guidance doubles the rows, and engines have been wrong at some row counts alone: always test with it."""
    return scale if scale != 1 else 2.0
