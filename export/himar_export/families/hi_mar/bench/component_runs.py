"""Runs single components of Hi-MAR on both sides: one call with the same inputs, up to the bundle's contract."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from himar_export.bench.component_runs import Call, ComponentCall, EagerSides, one_call
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
from ..phases import phase_head
from .eager import Networks


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
    call = _decode if phase is None else _encode(phase, seen) if part.name == phase.transformer else _denoise(phase)
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


def _encode(phase: PhaseInfo, seen: int) -> Call:
    """A transformer with its head's embedding of the condition, as the engine has it; the first `seen` are known."""

    def run(networks: Networks, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        model, tokens, n = networks[0], inputs[phase.tokens], phase.positions
        known = torch.arange(n, device=tokens.device).expand(len(tokens), n) < seen
        if phase.name == "low":
            z = model.transformer_low(inputs["class_row"], tokens, known)[:, :n]
        else:
            z = model.transformer_high(inputs["class_row"], inputs.get("pivots"), tokens, known)[:, -n:]
        outputs = {"condition": phase_head(model, phase.name).condition(z)}
        return {"pivots": z, **outputs} if phase.leaves_pivots else outputs

    return run


def _denoise(phase: PhaseInfo) -> Call:
    def run(networks: Networks, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        head = phase_head(networks[0], phase.name)
        return {"prediction": head.denoise(inputs["x"], inputs["timestep"], inputs["condition"])}

    return run


def _decode(networks: Networks, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    vae = networks[1]
    assert vae is not None  # a component of its own only where there is one
    return {"image": vae.decode(inputs["latent"])}
