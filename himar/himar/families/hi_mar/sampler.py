"""Samples eagerly in two phases: the reference that engines are compared with (§6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from himar_kernels import Draws, InputError, check_labels
from himar_kernels.families.hi_mar import (
    AnyChain,
    Predictions,
    SamplingConfig,
    Sites,
    Step,
    dit_head_step,
    known_positions,
    mlp_head_step,
    plan,
    renoise_known,
    revealed_positions,
    step_chain,
)
from himar_kernels.families.hi_mar.sampling import require_dit_head

from .config import ModelConfig
from .device_draws import DEVICE_NOISE_BLOCK, draws_on
from .dit_head import DiTHead
from .mlp_head import MLPHead
from .model import HiMAR

Evaluated = Callable[[Step, int, Tensor], None]
"""Told of every evaluation of a head: its autoregressive step, the index k of its chain, and what it predicted."""


@dataclass(frozen=True)
class TwoPhase:
    """What a generation leaves: tokens of both phases, still times the VAE scale.

    tokens: (B, N, C) of phase high; low_tokens: (B, S, C) of phase low; pivots: (B, S, D), or the low tokens where
    pivots are visual. With a single scale S is 0.
    """

    tokens: Tensor
    low_tokens: Tensor
    pivots: Tensor


def generate(
    model: HiMAR,
    labels: Sequence[int] | None = None,
    *,
    contexts: Tensor | None = None,
    draws: Draws,
    sampling: SamplingConfig | None = None,
    first_index: int = 0,
) -> Tensor:
    """Sample one image's latent per label or context; `vae.decode` turns them into images.

    Args:
        model: the model, on any device.
        labels: class of each image, 0 … classes-1; None for a model from text.
        contexts: of each image's text (B, K, W), floats, as its tower gives them (docs/model.md §11); None for a model
            of classes.
        draws: source of orders and noise.
        sampling: steps, guidance and temperature; None takes the model configuration's default.
        first_index: image index of the first image; images depend on the draws' seed and their index alone.

    Returns:
        latents (B, C, h, w), VAE scale removed.

    Raises:
        InputError: labels or contexts are not what the model takes, or a phase has more steps than positions.
    """
    result = two_phase(model, labels, contexts=contexts, draws=draws, sampling=sampling, first_index=first_index)
    return to_grid(result.tokens) / model.config.vae_scale


@torch.inference_mode()
def two_phase(
    model: HiMAR,
    labels: Sequence[int] | None = None,
    *,
    contexts: Tensor | None = None,
    draws: Draws,
    sampling: SamplingConfig | None = None,
    first_index: int = 0,
    evaluated: Evaluated | None = None,
) -> TwoPhase:
    """Run both phases as `generate` does and return all that they leave; `evaluated` is told of each evaluation."""
    shown = what_is_shown(model.config, labels, contexts)
    images = np.arange(first_index, first_index + len(shown))
    return run_phases(model, shown, images, draws, sampling, evaluated)


@dataclass(frozen=True)
class Kept:
    """What an edit keeps of B images, as many positions of each.

    low_known (B, S), high_known (B, N): True at positions that are not drawn; low_tokens (B, S, C), tokens (B, N, C):
    those of the images there, times the VAE scale, on the model's device. Elsewhere they are not read.
    """

    low_known: np.ndarray
    high_known: np.ndarray
    low_tokens: Tensor
    tokens: Tensor


@torch.inference_mode()
def run_phases(
    model: HiMAR,
    shown: Tensor,
    images: np.ndarray,
    draws: Draws,
    sampling: SamplingConfig | None = None,
    evaluated: Evaluated | None = None,
    kept: Kept | None = None,
) -> TwoPhase:
    """Run both phases of images that draws count by the given indices (B,).

    shown: what they show, as the transformer takes it; kept: what an edit keeps of them. Raises InputError.
    """
    config = model.config
    sampling = sampling or config.default_sampling
    drawn = None if kept is None else (int((~kept.low_known[0]).sum()), int((~kept.high_known[0]).sum()))
    steps = plan(sampling, config.low_positions, config.high_positions, drawn)
    require_dit_head(sampling, {phase.kind for phase in config.phases}, "this model")
    device = model.mask_token.device
    draws = draws_on(draws, device)
    loop = _Loop(model, draws, images, shown.to(device), sampling, evaluated)

    low_tokens = torch.zeros(len(images), config.low_positions, config.channels, device=device)
    pivots = torch.zeros(len(images), config.low_positions, config.width, device=device)
    tokens = torch.zeros(len(images), config.high_positions, config.channels, device=device)
    low_order = None if config.single_scale else draws.order("low", config.low_positions, images)
    order = draws.order("high", config.high_positions, images)
    if kept is not None:
        low_tokens, tokens = low_tokens + kept.low_tokens, tokens + kept.tokens
        order = _drawn_first(order, kept.high_known)
        if low_order is not None:
            low_order = _drawn_first(low_order, kept.low_known)
    if low_order is not None:
        for step in (step for step in steps if step.phase == "low"):
            low_tokens = loop.low_step(step, low_order, low_tokens, pivots)
        pivots = low_tokens if config.pivots == "visual" else pivots
    unguided = None
    if kept is not None and config.pivots == "condition":
        unguided = torch.from_numpy(kept.low_known).to(device)
    for step in (step for step in steps if step.phase == "high"):
        tokens = loop.high_step(step, order, pivots, tokens, unguided)
    return TwoPhase(tokens, low_tokens, pivots)


def _drawn_first(order: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return each image's order (B, n) with the positions that are not known (B, n) first, both parts as they stood."""
    parts = [np.concatenate([each[~there[each]], each[there[each]]]) for each, there in zip(order, known, strict=True)]
    return np.stack(parts)


class _Loop:
    """One request's constants, and a step of each phase over its state."""

    def __init__(
        self,
        model: HiMAR,
        draws: Draws,
        images: np.ndarray,
        shown: Tensor,
        sampling: SamplingConfig,
        evaluated: Evaluated | None,
    ) -> None:
        self.model = model
        self.evaluated = evaluated
        self.draws = draws
        self.images = images
        self.shown = shown
        self.sampling = sampling
        self.temperature = sampling.temperature
        self.block = None if shown.device.type == "cpu" else DEVICE_NOISE_BLOCK

    def low_step(self, step: Step, order: np.ndarray, low_tokens: Tensor, pivots: Tensor) -> Tensor:
        """Reveal the step's low positions: return the tokens; capture their pivots in place."""
        shown, repeats = self._rows(step)
        known = self._tensor(known_positions(order, step.masked))
        z = self.model.transformer_low(shown, low_tokens.repeat(repeats, 1, 1), known.repeat(repeats, 1))
        columns = self._tensor(revealed_positions(order, step))
        rows = torch.arange(len(columns), device=z.device)[:, None]
        pivots[rows, columns] = z[rows, columns]
        return self._sample(self.model.low_head, step, order, z[:, : order.shape[1]], low_tokens)

    def high_step(
        self, step: Step, order: np.ndarray, pivots: Tensor, tokens: Tensor, unguided: Tensor | None
    ) -> Tensor:
        """Return the tokens with what the step samples; at a DiT head that is every masked position.

        unguided: bool (B, S), low positions that have no pivots: they were known and not predicted, and training shows
        a placeholder there (docs/model.md §8). None where all have pivots.
        """
        shown, repeats = self._rows(step)
        known = self._tensor(known_positions(order, step.masked))
        guide = None if self.model.config.single_scale else pivots.repeat(repeats, 1, 1)
        placed = {} if unguided is None else {"unguided": unguided.repeat(repeats, 1)}
        z = self.model.transformer_high(shown, guide, tokens.repeat(repeats, 1, 1), known.repeat(repeats, 1), **placed)
        return self._sample(self.model.high_head, step, order, z[:, -order.shape[1] :], tokens)

    def _sample(self, head: MLPHead | DiTHead, step: Step, order: np.ndarray, z: Tensor, tokens: Tensor) -> Tensor:
        """Return tokens (B, n, C) after the step's head, from z (R, n, D) of the phase's n positions."""
        if isinstance(head, MLPHead):
            return self._revealed(head, step, order, z, tokens)
        return self._all(head, step, order, z, tokens)

    def _revealed(self, head: MLPHead, step: Step, order: np.ndarray, z: Tensor, tokens: Tensor) -> Tensor:
        """MLP head: sample each revealed position's token by itself."""
        _, repeats = self._rows(step)
        revealed = revealed_positions(order, step)
        columns = self._tensor(revealed)
        rows = torch.arange(len(columns), device=z.device)[:, None]
        z = z[torch.arange(len(z), device=z.device)[:, None], columns.repeat(repeats, 1)]

        condition = head.condition(z.flatten(0, 1))
        sites = Sites(self.draws, step, self.images, revealed, tokens.shape[-1], self.block)
        x = self._tensor(sites.initial_noise()).flatten(0, 1)
        start: Tensor | None = None
        chain = step_chain(self.sampling, step)
        predictions = _Evaluated(self.sampling, step, chain, head, condition, sites.channels, self.evaluated)
        for k, drawn in sites.down(chain):
            prediction, guidance = predictions.at(k, x)
            noise = None if drawn is None else self._tensor(drawn).flatten(0, 1)
            x, start = mlp_head_step(chain, k, x, prediction, guidance, noise, self.temperature, start)
        tokens = tokens.clone()
        tokens[rows, columns] = x.view(*columns.shape, sites.channels)
        return tokens

    def _all(self, head: DiTHead, step: Step, order: np.ndarray, z: Tensor, tokens: Tensor) -> Tensor:
        """DiT head: denoise all positions around the known ones; every masked position takes its result."""
        known = self._tensor(known_positions(order, step.masked))
        condition = head.condition(z)
        positions = np.broadcast_to(np.arange(order.shape[1]), order.shape)
        sites = Sites(self.draws, step, self.images, positions, tokens.shape[-1], self.block)
        initial = self._tensor(sites.initial_noise())
        x = initial
        start: Tensor | None = None
        chain = step_chain(self.sampling, step)
        predictions = _Evaluated(self.sampling, step, chain, head, condition, sites.channels, self.evaluated)
        for k, drawn in sites.down(chain):
            x = renoise_known(chain, k, x, tokens, initial, known)
            prediction, guidance = predictions.at(k, x)
            noise = None if drawn is None else self._tensor(drawn)
            x, start = dit_head_step(chain, k, x, prediction, guidance, noise, self.temperature, start)
        return torch.where(known[..., None], tokens, x)

    def _rows(self, step: Step) -> tuple[Tensor, int]:
        """What rows show, [conditional; unconditional] under guidance, else conditional alone, and their multiple."""
        if step.halves == 1:
            return self.shown, 1
        return torch.cat([self.shown, self.model.unconditional(self.shown)]), step.halves

    def _tensor(self, array: np.ndarray | Tensor) -> Tensor:
        if isinstance(array, Tensor):
            return array
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.shown.device)


class _Evaluated:
    """The predictions of a head down one chain, evaluated where the settings ask for it."""

    def __init__(
        self,
        sampling: SamplingConfig,
        step: Step,
        chain: AnyChain,
        head: MLPHead | DiTHead,
        condition: Tensor,
        channels: int,
        evaluated: Evaluated | None,
    ) -> None:
        """condition: (H·rows, …), [conditional; unconditional] under guidance; channels: C of the state."""
        evaluations = sampling.evaluations(step.phase)
        self.step, self.evaluated = step, evaluated
        self.head, self.condition = head, condition
        self.rows = len(condition) // step.halves
        self.halves = evaluations.halves(len(chain), step.halves)
        timesteps = chain.timesteps
        if isinstance(head, DiTHead):  # made anew each time here; those of the same timestep are the same
            timesteps = evaluations.held_timesteps(timesteps, self.halves)
        self.timesteps = torch.from_numpy(timesteps).to(condition.device)
        self.predictions = Predictions(evaluations, step.guidance, channels)

    def at(self, k: int, x: Tensor) -> tuple[Tensor, float]:
        """Return the prediction at k of the state x (rows, …, C), and the guidance still to be applied to it."""
        halves, prediction = self.halves[k], None
        if halves:
            repeated = x.repeat(halves, *[1] * (x.ndim - 1))
            condition = self.condition[: halves * self.rows]
            prediction = self.head.denoise(repeated, self.timesteps[k : k + 1], condition)
            if self.evaluated is not None:
                self.evaluated(self.step, k, prediction)
        return self.predictions.at(k, prediction, self.rows)


def what_is_shown(config: ModelConfig, labels: Sequence[int] | None, contexts: Tensor | None) -> Tensor:
    """Return class rows (B,), or contexts (B, K, W) as float32. Raises InputError unless they are the model's."""
    if (labels is None) == (contexts is None):
        given = "neither labels nor contexts were" if labels is None else "labels and contexts were both"
        raise InputError(
            f"{given} given; give {'contexts' if config.from_text else 'labels'}, as this model takes them."
        )
    if labels is not None:
        if config.from_text:
            raise InputError("labels were given, but this model makes images from text; give contexts.")
        return torch.from_numpy(check_labels(labels, config.classes))
    assert contexts is not None
    if not config.from_text:
        raise InputError("contexts were given, but this model makes images of classes; give labels.")
    wanted = (config.buffer, config.context_width)
    if contexts.ndim != 3 or contexts.shape[1:] != wanted or not len(contexts):
        raise InputError(
            f"contexts have shape {tuple(contexts.shape)}; this model takes (images, {wanted[0]}, {wanted[1]}), at "
            f"least one: the last hidden state of its text tower."
        )
    if not contexts.is_floating_point():
        raise InputError(f"contexts are {str(contexts.dtype).removeprefix('torch.')}; give floats, not token ids.")
    broken = ~contexts.isfinite().flatten(1).all(dim=1)
    if broken.any():
        raise InputError(f"context {int(broken.int().argmax())} holds values that are not finite; compute it again.")
    return contexts.float()


def to_grid(tokens: Tensor) -> Tensor:
    """Arrange row-major tokens (B, n², C) as a grid (B, C, n, n)."""
    side = round(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).unflatten(2, (side, side))
