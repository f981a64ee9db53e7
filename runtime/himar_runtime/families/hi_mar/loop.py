"""The two-phase loop: order → for each step: indices → transformer → head loop → tokens (docs/model.md §6).

Phase low reveals the low positions and keeps their pivots; phase high reveals the image tokens, led by the
pivots. Which components run a phase, and what it leaves, its PhaseInfo says; a single scale has phase high alone.
Rows are [conditional; unconditional] under guidance, else conditional alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels import Draws, InputError
from himar_kernels.families.hi_mar import (
    Known,
    Phase,
    SamplingConfig,
    Sites,
    Step,
    edit_order,
    guide_rows,
    index_lists,
    known_positions,
    plan,
    revealed_positions,
    step_chain,
)
from himar_kernels.families.hi_mar.phases import ModelInfo, PhaseInfo
from himar_kernels.families.registry import TEXT_ENCODER
from himar_runtime.engines.engine import DeviceArray
from himar_runtime.engines.networks import Networks
from himar_runtime.request import NO_CLASS
from himar_runtime.request import Request as AnyRequest

from .diffusion_loop import HeldHead, require_finite, sample_all, sample_revealed

log = logging.getLogger(__name__)


Request = AnyRequest[SamplingConfig, Draws]

Shown = tuple[str, NDArray[Any]]
"""What rows are to show: the transformers' input that says it, and its values for [conditional; unconditional] rows."""


@dataclass(frozen=True)
class Tokens:
    """What a request leaves, still times the VAE scale: low (B, S, C) and high (B, N, C), float32.

    S is 0 with a single scale.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]


def run_two_phase(
    networks: Networks,
    model: ModelInfo,
    request: Request,
    should_continue: Callable[[Step, Mapping[Phase, NDArray[np.float32]]], bool],
    empty: NDArray[np.float32] | None = None,
    kept: Known | None = None,
) -> Tokens | None:
    """Generate the tokens of a request that fits the engines, through every phase that the model has.

    Args:
        should_continue: called after every autoregressive step with each phase's tokens (B, n, C) so far; False
            cancels.
        empty: context (K, W) of the empty prompt, of a model from text.
        kept: what an edit keeps, as many positions of each image; None makes whole images.

    Returns: the tokens, or None when cancelled. Raises EngineError when an engine fails or gives NaN.
    """
    loop = _Loop(networks, model, request, empty, kept)
    drawn = None if kept is None else (int(kept.drawn["low"][0].sum()), int(kept.drawn["high"][0].sum()))
    for step in plan(request.sampling, model.low_positions, model.high_positions, drawn):
        loop.step(step)
        log.debug("phase %s step %d revealed %d of %d positions", step.phase, step.index, step.revealed, step.masked)
        if not should_continue(step, loop.tokens):
            return None
    return Tokens(loop.tokens["low"], loop.tokens["high"])


class _Loop:
    """The growing state of a request, on the host: each phase's tokens (B, n, C) and the pivots (B, S, D)."""

    def __init__(
        self,
        networks: Networks,
        model: ModelInfo,
        request: Request,
        empty: NDArray[np.float32] | None,
        kept: Known | None,
    ) -> None:
        batch = len(request.labels)
        sizes: dict[Phase, int] = {"low": model.low_positions, "high": model.high_positions}
        self._networks = networks
        self._model = model
        self._request = request
        self._phases = {phase.name: phase for phase in model.phases}
        self._orders = {name: request.draws.order(name, sizes[name], request.images) for name in self._phases}
        self.tokens = {name: np.zeros((batch, n, model.channels), np.float32) for name, n in sizes.items()}
        self._drawn_low: NDArray[np.bool_] | None = None  # where known low positions have placeholders for pivots
        if kept is not None:
            self._orders = {name: edit_order(order, kept.drawn[name]) for name, order in self._orders.items()}
            self.tokens = {
                name: np.where(kept.drawn[name][..., None], tokens, kept.tokens[name])
                for name, tokens in self.tokens.items()
            }
            if model.edit_transformer is not None and not kept.drawn["low"].all():
                self._drawn_low = kept.drawn["low"]
        self._pivots = np.zeros((batch, model.low_positions, model.width), np.float32)
        self._shown = what_rows_show(networks, model, request, empty)
        self._held = {
            phase: HeldHead(*(networks[name] for name in parts))
            for phase, parts in held_components(networks.engines, model, request.sampling).items()
        }

    def step(self, step: Step) -> None:
        """Run the phase's transformer, keep the pivots that it leaves, and sample with the phase's head."""
        phase = self._phases[step.phase]
        known = known_positions(self._orders[phase.name], step.masked)
        outputs = self._networks[self._transformer(phase)].run_on_device(
            {
                phase.tokens: _rows(self.tokens[phase.name], step),
                **self._guide(phase, step),
                **self._context(phase, known, step),
            }
        )
        revealed = revealed_positions(self._orders[phase.name], step)
        if phase.leaves_pivots:
            image = np.arange(len(revealed))[:, None]
            pivots = outputs["pivots"].numpy()[image, revealed]  # the conditional half comes first
            require_finite(pivots, phase.transformer, step)
            self._pivots[image, revealed] = pivots
        if phase.kind == "mlp":
            self._sample_revealed(phase, step, outputs["condition"], revealed)
        else:
            self._sample_all(phase, step, outputs["condition"], known)

    def _sample_revealed(
        self, phase: PhaseInfo, step: Step, condition: DeviceArray, revealed: NDArray[np.int64]
    ) -> None:
        """MLP head: each revealed position by itself, so its rows of every half are packed to (H·B·r, W)."""
        image = np.arange(len(revealed))[:, None]
        n, width = condition.shape[1:]
        rows = condition.numpy().reshape(-1, len(revealed), n, width)[:, image, revealed].reshape(-1, width)
        require_finite(rows, phase.transformer, step)
        tokens = sample_revealed(
            self._networks[phase.head],
            step_chain(self._request.sampling, step),
            self._request.sampling.evaluations(phase.name),
            self._sites(step, revealed),
            rows,
            self._request.sampling.temperature,
        )
        self.tokens[phase.name][image, revealed] = tokens

    def _sample_all(self, phase: PhaseInfo, step: Step, condition: DeviceArray, known: NDArray[np.bool_]) -> None:
        """DiT head: what was denoised but not revealed travels along and is masked for the next step."""
        require_finite(condition.numpy(), phase.transformer, step)
        positions = np.broadcast_to(np.arange(known.shape[1]), known.shape)
        self.tokens[phase.name] = sample_all(
            self._held.get(phase.name) or self._networks[phase.head],
            step_chain(self._request.sampling, step),
            self._request.sampling.evaluations(phase.name),
            self._sites(step, positions),
            condition,
            self.tokens[phase.name],
            known,
            self._request.sampling.temperature,
        )

    def _transformer(self, phase: PhaseInfo) -> str:
        """The phase's transformer, or the one that takes guides where it sees low positions without pivots."""
        if phase.name == "low" or self._drawn_low is None:
            return phase.transformer
        assert self._model.edit_transformer is not None
        return self._model.edit_transformer

    def _guide(self, phase: PhaseInfo, step: Step) -> dict[str, NDArray[Any]]:
        """The pivots of phase high, or visual ones: the low tokens. Both halves take the same."""
        if not phase.pivot_width:
            return {}
        pivots = _rows(self.tokens["low"] if self._model.pivots == "visual" else self._pivots, step)
        if self._drawn_low is None:
            return {"pivots": pivots}
        return {"pivots": pivots, "guides": guide_rows(_rows(self._drawn_low, step))}

    def _context(self, phase: PhaseInfo, known: NDArray[np.bool_], step: Step) -> dict[str, NDArray[Any]]:
        """The inputs that say what each row sees: its class or text, and the index lists of its positions."""
        name, rows = self._shown
        always = np.ones((len(known), phase.always), np.bool_)
        lists = index_lists(
            _rows(np.concatenate([always, known], axis=1), step), self._model.buffer, self._model.positions
        )
        return {name: rows[: step.halves * len(known)], "visible": lists.visible, "sources": lists.sources}

    def _sites(self, step: Step, positions: NDArray[np.int64]) -> Sites:
        return Sites(self._request.draws, step, self._request.images, positions, self._model.channels)


def held_components(
    present: Container[str], model: ModelInfo, sampling: SamplingConfig
) -> dict[Phase, tuple[str, str]]:
    """Return the names of each DiT head's two parts, by its phase, for settings that hold modulations; else none.

    present: the components that there are. Raises InputError where those lack a part.
    """
    if sampling.modulation_interval == 1:
        return {}
    found = {phase.name: phase.held for phase in model.phases if phase.held is not None}
    lacking = [name for parts in found.values() for name in parts if name not in present]
    if lacking:
        raise InputError(
            f"modulation_interval is {sampling.modulation_interval}, but this bundle has no {lacking[0]}; build it "
            f"with --held-modulations, or leave the setting out."
        )
    return found


def what_rows_show(networks: Networks, model: ModelInfo, request: Request, empty: NDArray[np.float32] | None) -> Shown:
    """Return `class_row` int64 (2B), or `context` float32 (2B, K, W) of a text model, with its empty context (K, W).

    Images of an edit that have neither class nor text show what unconditional rows do.

    Raises EngineError when the text encoder fails or gives NaN.
    """
    if model.context_shape is None:
        labels = np.where(request.labels == NO_CLASS, model.classes, request.labels)
        return "class_row", np.concatenate([labels, np.full_like(labels, model.classes)])
    assert empty is not None  # of every text model
    nothing = np.broadcast_to(empty, (len(request), *empty.shape))
    contexts = nothing if request.texts is None else request.texts.encoded(networks.engines.get(TEXT_ENCODER))
    return "context", np.concatenate([contexts, nothing])


def _rows(images: NDArray, step: Step) -> NDArray:
    return np.concatenate([images] * step.halves)
