"""The loop over scales: predict all cells of a scale, redraw the least confident, add its codes to the latent (§5).

Networks run as engines, `conditions` once per request; the rest is NumPy on the host. Rows are [conditional;
unconditional] under guidance, else conditional alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels.families.hmar import (
    Codebook,
    Draws,
    Forward,
    Kept,
    SamplingConfig,
    contribution,
    draw_codes,
    edited_share,
    guided,
    least_confident,
    plan,
    scale_input,
    smooth_weights,
    spread,
    surviving,
)
from himar_kernels.families.hmar.pyramid import masked_words
from himar_kernels.families.hmar.sizes import (
    CONDITIONS,
    MASKED_TAIL,
    NEXT_SCALE_TAIL,
    TRUNK,
    VAR_TAIL,
    VAR_TRUNK,
    ModelInfo,
)
from himar_kernels.shared.errors import not_finite
from himar_runtime.engines.networks import Networks
from himar_runtime.request import NO_CLASS
from himar_runtime.request import Request as AnyRequest

Request = AnyRequest[SamplingConfig, Draws]
F32 = NDArray[np.float32]
Forced = Mapping[tuple[int, int], NDArray[np.int64]]
ForcedMasks = Mapping[tuple[int, int], NDArray[np.bool_]]
OnForward = Callable[["Observed"], None]


@dataclass(frozen=True)
class Step:
    """A finished scale, as `himar_runtime.runner.StepDone`: `phase` names it, and `index` counts its only step."""

    phase: str
    index: int = 0


@dataclass(frozen=True)
class Observed:
    """One forward, for comparisons: logits (B, T, V) of both halves (uncond None where there is one) and guided."""

    forward: Forward
    cond: F32
    uncond: F32 | None
    logits: F32


@dataclass(frozen=True)
class Sampled:
    """What a request leaves: codes int64 (B, L), None of a smooth preview; the latent float32 (B, Cv, H, H)."""

    codes: NDArray[np.int64] | None
    latent: F32


def run_scales(
    networks: Networks,
    model: ModelInfo,
    book: Codebook,
    request: Request,
    should_continue: Callable[[Step, F32], bool],
    *,
    kept: Kept | None = None,
    forced: Forced | None = None,
    forced_masks: ForcedMasks | None = None,
    on_forward: OnForward | None = None,
) -> Sampled | None:
    """Generate the codes of a request that fits the engines.

    Args:
        should_continue: called after every scale with the latent (B, Cv, H, H) so far; False cancels.
        kept: what an edit keeps; None draws every cell.
        forced: codes (B, T) by (scale, step) taken in place of those drawn, as recordings have them.
        forced_masks: cells (B, T) by (scale, step) that a masked forward redraws, in place of the least confident.
        on_forward: is given each forward.

    Returns: codes and latent, or None when cancelled. Raises EngineError when an engine fails or gives NaN.
    """
    loop = _Loop(networks, model, book, request, kept, forced or {}, forced_masks or {}, on_forward)
    forwards = plan(request.sampling, model.scales)
    codes: list[NDArray[np.int64]] = []
    for scale in range(len(model.scales)):
        own = [forward for forward in forwards if forward.scale == scale]
        if request.sampling.smooth:
            loop.latent = loop.latent + loop.preview(own[0])
        else:
            codes.append(loop.scale(own))
            loop.latent = loop.latent + contribution(book, model.scales, scale, codes[-1])
        if not should_continue(Step(f"scale {scale + 1}"), loop.latent):
            return None
    return Sampled(np.concatenate(codes, axis=1) if codes else None, loop.latent)


class _Loop:
    """One request's constants and its growing latent."""

    def __init__(
        self,
        networks: Networks,
        model: ModelInfo,
        book: Codebook,
        request: Request,
        kept: Kept | None,
        forced: Forced,
        forced_masks: ForcedMasks,
        on_forward: OnForward | None,
    ) -> None:
        batch = len(request.labels)
        self._networks, self._model, self._book, self._request = networks, model, book, request
        self._kept, self._on_forward = kept, on_forward
        self._forced, self._forced_masks = forced, forced_masks
        self._past: dict[str, tuple[F32, F32]] = {}
        self.latent = np.zeros((batch, model.latent_channels, model.scales.side, model.scales.side), np.float32)
        labels = np.where(request.labels == NO_CLASS, model.classes, request.labels)
        if request.sampling.guidance:
            labels = np.concatenate([labels, np.full_like(labels, model.classes)])
        conditions = networks[CONDITIONS].run({"class_row": labels})
        for values in conditions.values():
            if not np.isfinite(values).all():
                raise not_finite(CONDITIONS)
        # Keyed by the halves of rows that a forward runs: a step without guidance needs the conditional ones alone.
        self._conditions = {1: {name: values[:batch] for name, values in conditions.items()}, 2: conditions}

    def scale(self, forwards: list[Forward]) -> NDArray[np.int64]:
        """Predict a scale's codes (B, T), and redraw the least confident as its schedule says."""
        request, sampling = self._request, self._request.sampling
        cells = self._model.scales.cells[forwards[0].scale]
        codes, masked = self._start(forwards[0].scale)
        edited = masked.sum(axis=1)
        for forward in forwards:
            place = forward.scale, forward.step
            if place in self._forced_masks:
                masked = self._forced_masks[place][request.images]
            logits = self._logits(forward, self._words(forward, codes, masked), masked)
            keep = surviving(logits, sampling.top_k, sampling.top_p)
            uniforms = request.draws.uniforms(forward.scale, forward.step, request.images, cells)
            drawn, confidence = draw_codes(logits, keep, uniforms)
            if place in self._forced:
                drawn = self._forced[place][request.images]
            codes = np.where(masked, drawn, codes)
            if forward.remasked:
                masked = least_confident(confidence, edited_share(forward.remasked, cells, edited), masked)
                if not masked.any():
                    break
        return codes

    def _start(self, scale: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return a scale's codes before it is drawn, and the cells to draw, both (B, T): all, or those of an edit."""
        span = self._model.scales.span(scale)
        if self._kept is not None:
            return self._kept.codes[:, span], self._kept.edited[:, span]
        shape = (len(self._request.labels), self._model.scales.cells[scale])
        return np.zeros(shape, np.int64), np.ones(shape, np.bool_)

    def preview(self, forward: Forward) -> F32:
        """Return what a scale adds to the latent of a smooth preview: codes' vectors mixed, none drawn."""
        request, scales = self._request, self._model.scales
        cells = scales.cells[forward.scale]
        logits = self._logits(forward, self._words(forward), np.zeros((len(request.labels), cells), np.bool_))
        keep = surviving(logits, request.sampling.top_k, request.sampling.top_p)
        noise = request.draws.gumbel(forward.scale, request.images, cells, self._model.vocab)
        mixed = smooth_weights(logits, keep, noise, forward.scale / (len(scales) - 1))
        return spread(self._book, scales, forward.scale, mixed @ self._book.embedding)

    def _words(
        self,
        forward: Forward,
        codes: NDArray[np.int64] | None = None,
        masked: NDArray[np.bool_] | None = None,
    ) -> F32:
        """Return n_s (B, T, Cv), in a masked step with m_s at visible cells; 0 at scale 0."""
        scales = self._model.scales
        if not forward.scale:
            return np.zeros((len(self.latent), scales.cells[0], self._model.latent_channels), np.float32)
        ahead = scale_input(scales, forward.scale, self.latent)
        if not forward.step or codes is None or masked is None:
            return ahead
        own = scale_input(scales, forward.scale, contribution(self._book, scales, forward.scale, codes))
        return masked_words(ahead, own, masked)

    def _logits(self, forward: Forward, words: F32, masked: NDArray[np.bool_]) -> F32:
        """Run the forward's network; return its logits (B, T, V) after guidance."""
        batch, conditions = len(words), self._conditions[forward.halves]
        cond = conditions["cond"][:, None]
        span = self._model.scales.span(forward.scale)
        inputs: dict[str, Any] = {
            "words": np.concatenate([words] * forward.halves),
            "cells": np.arange(span.start, span.stop),
            "start": np.zeros_like(cond) if forward.scale else cond,
        }
        if self._request.sampling.all_scales:
            every = self._run_var(inputs, conditions)
        else:
            shown = masked if forward.step else np.zeros_like(masked)
            inputs["masked"] = np.concatenate([shown.astype(np.float32)] * forward.halves)
            every = self._run(forward, inputs, conditions)
        head, tail = every[:batch], every[batch:] if forward.halves == 2 else None
        logits = head if tail is None else guided(head, tail, forward.guidance)
        if not np.isfinite(logits).all():
            raise not_finite(MASKED_TAIL if forward.step else NEXT_SCALE_TAIL, f" at scale {forward.scale + 1}")
        if self._on_forward:
            self._on_forward(Observed(forward, head, tail, logits))
        return logits

    def _run(self, forward: Forward, inputs: dict[str, Any], conditions: Mapping[str, F32]) -> F32:
        """Run trunk and tail on one scale's cells alone."""
        tail = MASKED_TAIL if forward.step else NEXT_SCALE_TAIL
        x = self._networks[TRUNK].run_on_device({**inputs, **_vectors(conditions, TRUNK)})["x"]
        given: dict[str, Any] = {"x": x, "head": conditions[f"{tail}_head"], **_vectors(conditions, tail)}
        logits: F32 = self._networks[tail].run(given)["logits"]
        return logits

    def _run_var(self, inputs: dict[str, Any], conditions: Mapping[str, F32]) -> F32:
        """Run trunk and next-scale tail on one scale's cells with all coarser ones in view, and keep its own."""
        rows = len(inputs["words"])
        x = self._after(VAR_TRUNK, {**inputs, **_vectors(conditions, TRUNK)}, self._model.base, rows, "x")
        given = {"x": x, "head": conditions[f"{NEXT_SCALE_TAIL}_head"], **_vectors(conditions, NEXT_SCALE_TAIL)}
        return self._after(VAR_TAIL, given, self._model.tail, rows, "logits")

    def _after(self, name: str, inputs: dict[str, Any], blocks: int, rows: int, result: str) -> F32:
        nothing = np.zeros((rows, blocks, 0, self._model.width), np.float32)
        keys, values = self._past.get(name, (nothing, nothing))
        outputs = self._networks[name].run({**inputs, "keys": keys, "values": values})
        self._past[name] = (
            np.concatenate([keys, outputs["own_keys"]], axis=2),
            np.concatenate([values, outputs["own_values"]], axis=2),
        )
        found: F32 = outputs[result]
        return found


def _vectors(conditions: Mapping[str, F32], component: str) -> dict[str, F32]:
    """The vectors that modulate a component's blocks, where it has any."""
    return {"vectors": conditions[component]} if component in conditions else {}
