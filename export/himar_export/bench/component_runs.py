"""Runs single components on both sides: one call with the same inputs, up to the bundle's contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from himar_kernels.families.hi_mar import index_lists
from himar_kernels.families.hi_mar.phases import ModelInfo, PhaseInfo
from himar_runtime.decode import DECODE_BATCH
from himar_runtime.families.hi_mar.family import hi_mar_model

from ..cost.cost import Work as Cost
from ..cost.decoder import vae_decoder
from ..cost.networks import condition, head, transformer
from ..families.hi_mar.components import components
from ..families.hi_mar.phases import phase_head
from ..graph.component import Component
from ..verify.compare import Comparison, compare
from ..verify.limits import COMPONENT_LIMIT
from .eager import Networks, compiling, eager_networks, wait_for
from .engines import wait_for_lane
from .measurement import COMPILED, EAGER, EAGER_FP32, ENGINES, Work
from .timing import Outputs, Side
from .workload import Workload

Call = Callable[[Networks, Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class ComponentCall:
    """A component's work, how many rows (samples of an MLP head, images of the decoder) it has, and its cost."""

    work: Work
    rows: int
    cost: Cost


def component_calls(workload: Workload, batch: int, compiled: bool) -> list[ComponentCall]:
    """Return one call of every component as a guided step of `batch` images makes it.

    Transformers have half of their phase's positions visible; an MLP head takes what an average step reveals; the
    decoder at most as many images as the runtime decodes at once. Inputs are random but always the same.
    """
    eager = _Eager.of(workload, compiled)
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
    return _call(workload, _Eager.of(workload, compiled), part, phase, rows, known, batch)


def compared_components(workload: Workload, batch: int) -> list[Comparison]:
    """Compare the engines' outputs of every component's call with the eager model's in float32; nothing is timed."""
    found = []
    for call in component_calls(workload, batch, False):
        (engines,) = (side for side in call.work.sides if side.name == ENGINES)
        outputs = engines.outputs()
        found += [
            compare(f"{ENGINES}: {call.work.name} {name}", outputs[name], call.work.reference[name], limit)
            for name, limit in call.work.limits.items()
        ]
    return found


@dataclass(frozen=True)
class _Eager:
    """The eager sides: in the bundle's precisions, in float32, and compiled where that is asked for."""

    own: Networks
    plain: Networks
    fused: Networks | None

    @classmethod
    def of(cls, workload: Workload, compiled: bool) -> _Eager:
        model, vae, precisions = workload.model, workload.vae, workload.eager_precisions
        fused = eager_networks(model, vae, precisions, compiled=True) if compiled else None
        return cls(eager_networks(model, vae, precisions), eager_networks(model, vae, {}), fused)


def _parts(workload: Workload) -> list[tuple[Component, PhaseInfo | None]]:
    """Return every component and its phase; the decoder has none."""
    model = hi_mar_model(workload.bundle.manifest)
    phases = {name: phase for phase in model.phases for name in (phase.transformer, phase.head)}
    parts = components(workload.model, workload.vae, workload.bundle.manifest.max_batch)
    return [(part, phases.get(part.name)) for part in parts]


def _call(
    workload: Workload,
    networks: _Eager,
    part: Component,
    phase: PhaseInfo | None,
    rows: int,
    known: int | None,
    batch: int,
) -> ComponentCall:
    host = part.sample_inputs(rows)
    seen = 0 if phase is None else phase.positions // 2 if known is None else known
    if phase is not None and part.name == phase.transformer:
        host |= visible_positions(hi_mar_model(workload.bundle.manifest), phase, rows, seen)
    inputs = {name: value.to(workload.device) for name, value in host.items()}
    eager = _decode if phase is None else _encode(phase, seen) if part.name == phase.transformer else _denoise(phase)
    precision = workload.precisions.get(part.name, "fp32")
    names = [output.name for output in part.outputs]
    wait, lane_wait, engine = wait_for(workload.device), wait_for_lane(workload.networks), workload.networks[part.name]

    def side(networks: Networks) -> Callable[[], dict[str, Tensor]]:
        @torch.inference_mode()
        def run() -> dict[str, Tensor]:
            outputs = eager(networks, inputs)
            wait()
            return outputs

        return run

    def on_host(run: Callable[[], dict[str, Tensor]]) -> Outputs:
        return {name: value.cpu().numpy() for name, value in run().items()}

    def engine_run() -> None:
        engine.run_on_device({})
        lane_wait()

    def engine_outputs() -> Outputs:
        engine.bind({name: value.numpy() for name, value in host.items()})
        return engine.run({})

    own = side(networks.own)
    sides = [Side(EAGER, own, lambda: on_host(own)), Side(ENGINES, engine_run, engine_outputs)]
    plain = side(networks.plain)
    reference = on_host(plain)
    if workload.eager_precisions.get(part.name, "fp32") != "fp32" and workload.device.type == "cpu":
        sides.insert(1, Side(EAGER_FP32, plain, lambda: reference))
    if networks.fused is not None:
        fused = side(networks.fused)

        def first() -> Outputs:
            with compiling():
                return on_host(fused)

        sides.insert(-1, Side(COMPILED, fused, first))
    limits = dict.fromkeys(names, COMPONENT_LIMIT[precision])
    work = Work(part.name, batch, reference, limits, sides)
    return ComponentCall(work, rows, call_cost(workload, part.name, phase, rows, seen))


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
