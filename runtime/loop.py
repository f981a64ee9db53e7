"""The two-phase loop: order → for each step: indices → transformer → head loop → tokens (himar-model.md §6).

Phase low reveals the low positions and keeps their pivots; phase high reveals the image tokens, led by the
pivots. Rows are [conditional; unconditional] under guidance, else conditional alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from himar_kernels import (
    Chain,
    Draws,
    SamplingConfig,
    Step,
    index_lists,
    known_positions,
    plan,
    revealed_positions,
)

from .heads import Sites, require_finite, sample_high, sample_low
from .manifest import ModelInfo
from .networks import Networks

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What to generate: labels int64 (B,), the image indices int64 (B,) that draws count by, and how."""

    labels: NDArray[np.int64]
    images: NDArray[np.int64]
    sampling: SamplingConfig
    draws: Draws


@dataclass(frozen=True)
class Tokens:
    """What a request leaves, still times the VAE scale: low (B, S, C) and high (B, N, C), float32."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]


def run_two_phase(
    networks: Networks, model: ModelInfo, request: Request, go_on: Callable[[Step], bool]
) -> Tokens | None:
    """Generate the tokens of a request that fits the engines.

    Args:
        go_on: called after every autoregressive step; False cancels.

    Returns: the tokens, or None when cancelled. Raises EngineError when an engine fails or gives NaN.
    """
    loop = _Loop(networks, model, request)
    for step in plan(request.sampling, model.low_positions, model.high_positions):
        if step.phase == "low":
            loop.low_step(step)
        else:
            loop.high_step(step)
        log.debug("phase %s step %d revealed %d of %d positions", step.phase, step.index, step.revealed, step.masked)
        if not go_on(step):
            return None
    return Tokens(loop.low_tokens, loop.tokens)


class _Loop:
    """The growing state of a request, on the host."""

    def __init__(self, networks: Networks, model: ModelInfo, request: Request) -> None:
        S, N, C = model.low_positions, model.high_positions, model.channels
        batch = len(request.labels)
        self._networks = networks
        self._model = model
        self._request = request
        self._low_order = request.draws.order("low", S, request.images)
        self._high_order = request.draws.order("high", N, request.images)
        self._low_chain = Chain.build(request.sampling.low_diffusion_steps)
        self._high_chain = Chain.build(request.sampling.high_diffusion_steps)
        self.low_tokens = np.zeros((batch, S, C), np.float32)
        self.pivots = np.zeros((batch, S, model.width), np.float32)
        self.tokens = np.zeros((batch, N, C), np.float32)

    def low_step(self, step: Step) -> None:
        """Reveal the step's low positions: sample their tokens and capture their pivots."""
        known = known_positions(self._low_order, step.masked)
        outputs = self._networks.transformer_low.run(
            {"low_tokens": _rows(self.low_tokens, step), **self._context(known, step)}
        )
        revealed = revealed_positions(self._low_order, step)
        image = np.arange(len(revealed))[:, None]
        pivots = outputs["pivots"][image, revealed]  # the conditional half comes first
        width = outputs["condition"].shape[-1]
        both = outputs["condition"].reshape(-1, *known.shape, width)
        condition = both[:, image, revealed].reshape(-1, width)
        require_finite(pivots, "transformer_low", step)
        require_finite(condition, "transformer_low", step)

        sites = self._sites(step, revealed)
        tokens = sample_low(
            self._networks.mlp_head, self._low_chain, sites, condition, self._request.sampling.temperature
        )
        self.low_tokens[image, revealed] = tokens
        self.pivots[image, revealed] = pivots

    def high_step(self, step: Step) -> None:
        """Denoise all high positions under the pivots, then keep those that the step reveals.

        The pivots feed both halves: only the context of the unconditional rows differs. What was denoised but
        not revealed travels along and is masked for the next step.
        """
        known = known_positions(self._high_order, step.masked)
        low_known = np.ones((len(known), self._model.low_positions), np.bool_)
        condition = self._networks.transformer_high.run_on_device(
            {
                "pivots": _rows(self.pivots, step),
                "tokens": _rows(self.tokens, step),
                **self._context(np.concatenate([low_known, known], axis=1), step),
            }
        )["condition"]
        require_finite(condition.numpy(), "transformer_high", step)

        positions = np.broadcast_to(np.arange(known.shape[1]), known.shape)
        self.tokens = sample_high(
            self._networks.dit_head,
            self._high_chain,
            self._sites(step, positions),
            condition,
            self.tokens,
            known,
            self._request.sampling.temperature,
        )

    def _context(self, known: NDArray[np.bool_], step: Step) -> dict[str, NDArray[np.int64]]:
        """The inputs that say what each row sees: its class and the index lists of its positions."""
        labels = self._request.labels
        if _halves(step) == 2:
            labels = np.concatenate([labels, np.full_like(labels, self._model.classes)])
        positions = self._model.low_positions + self._model.high_positions
        lists = index_lists(_rows(known, step), self._model.buffer, positions)
        return {"class_row": labels, "visible": lists.visible, "sources": lists.sources}

    def _sites(self, step: Step, positions: NDArray[np.int64]) -> Sites:
        return Sites(self._request.draws, step, self._request.images, positions, self._model.channels)


def _halves(step: Step) -> int:
    return 1 if step.guidance == 1 else 2


def _rows(images: NDArray, step: Step) -> NDArray:
    return np.concatenate([images] * _halves(step))
