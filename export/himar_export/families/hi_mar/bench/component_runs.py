"""Runs single components of Hi-MAR on both sides: one call with the same inputs, up to the bundle's contract."""

from __future__ import annotations

import torch
from torch import Tensor

from himar_export.bench.component_runs import ComponentCall, EagerSides, one_call
from himar_export.bench.workload import Workload
from himar_export.cost.cost import Work as Cost
from himar_export.cost.decoder import vae_decoder
from himar_export.graph.component import Component
from himar_kernels.families.hi_mar import index_lists
from himar_kernels.families.hi_mar.phases import ModelInfo, PhaseInfo
from himar_runtime.decode import DECODE_BATCH
from himar_runtime.families.hi_mar.family import hi_mar_model

from ..components import components
from ..cost.networks import condition, head, transformer
from .eager_components import eager_calls


def component_calls(workload: Workload, batch: int, compiled: bool) -> list[ComponentCall]:
    """Return one call of every component as a guided step of `batch` images makes it.

    Transformers have half of their phase's positions visible; an MLP head takes what an average step reveals; the
    decoder at most as many images as the runtime decodes at once. Inputs are random but always the same.
    """
    eager = EagerSides.of(workload, compiled)
    return [
        _call(workload, eager, part, phase, call_rows(workload, part.name, phase, batch), None, batch)
        for part, phase in _parts(workload)
    ]


def component_call(
    workload: Workload, name: str, rows: int, known: int | None, batch: int, compiled: bool
) -> ComponentCall:
    """Return one call of one component at a shape of its own.

    Args:
        name: of a component that the workload has; KeyError for any other.
        rows: rows of a transformer or a DiT head, samples of an MLP head, images of the decoder.
        known: visible positions of a transformer's phase, 0 … n-1; None is half of them, and for other components.
        batch: of the generation that makes the call.
    """
    part, phase = {part.name: (part, phase) for part, phase in _parts(workload)}[name]
    return _call(workload, EagerSides.of(workload, compiled), part, phase, rows, known, batch)


def _parts(workload: Workload) -> list[tuple[Component, PhaseInfo | None]]:
    """Return every component and its phase; the decoder has none."""
    model = hi_mar_model(workload.bundle.manifest)
    phases = {name: phase for phase in model.phases for name in (phase.transformer, phase.head)}
    parts = components(workload.model, workload.vae, workload.bundle.manifest.max_batch)
    return [(part, phases.get(part.name)) for part in parts]


def _call(
    workload: Workload,
    eager: EagerSides,
    part: Component,
    phase: PhaseInfo | None,
    rows: int,
    known: int | None,
    batch: int,
) -> ComponentCall:
    inputs = part.sample_inputs(rows)
    seen = 0 if phase is None else phase.positions // 2 if known is None else known
    if phase is not None and part.name == phase.transformer:
        inputs |= visible_positions(hi_mar_model(workload.bundle.manifest), phase, rows, seen)
    call = eager_calls(workload.model.config)[part.name]
    cost = call_cost(workload, part.name, phase, rows, seen)
    return one_call(workload, eager, part, inputs, call, rows, batch, cost)


def call_rows(workload: Workload, name: str, phase: PhaseInfo | None, batch: int) -> int:
    """Return rows of a guided step's call: images twice, times an average step's positions at an MLP head."""
    if phase is None:
        return min(batch, DECODE_BATCH)
    if name == phase.head and phase.kind == "mlp":
        steps = workload.sampling.low_steps if phase.name == "low" else workload.sampling.high_steps
        return 2 * batch * max(1, round(phase.positions / steps))
    return 2 * batch


def visible_positions(model: ModelInfo, phase: PhaseInfo, rows: int, known: int) -> dict[str, Tensor]:
    """Return a transformer's index lists where every row knows the first `known` positions of the phase."""
    first = torch.zeros(rows, phase.always + phase.positions, dtype=torch.bool)
    first[:, : phase.always + known] = True
    lists = index_lists(first.numpy(), model.buffer, model.positions)
    return {"visible": torch.from_numpy(lists.visible), "sources": torch.from_numpy(lists.sources)}


def call_cost(workload: Workload, name: str, phase: PhaseInfo | None, rows: int, known: int) -> Cost:
    """Return the operations and bytes of such a call of an engine (himar_export.cost.cost)."""
    config, held = workload.request.config, workload.request.held(name)
    if phase is None:
        assert workload.request.decoder is not None  # there is a decoder to call
        return vae_decoder(workload.request.decoder, rows, config.grid, held.weight)
    if name == phase.head:
        return head(config, phase.kind, rows, 1 if phase.kind == "mlp" else phase.positions, held)
    encoding = transformer(config, phase, rows, phase.positions - known, held)
    return encoding + condition(config, phase.kind, rows * phase.positions)
