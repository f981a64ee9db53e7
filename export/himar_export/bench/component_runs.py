"""Runs single components on both sides: one call with the same inputs, up to the bundle's contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..cost.cost import Work as Cost
from ..graph.component import Component
from ..verify.compare import Comparison, compare
from ..verify.limits import COMPONENT_LIMIT
from .eager import compiling, wait_for
from .engines import wait_for_lane
from .measurement import COMPILED, EAGER, EAGER_FP32, ENGINES, Work
from .timing import Outputs, Side
from .workload import Workload

Call = Callable[[Any, Mapping[str, Tensor]], dict[str, Tensor]]
"""Runs eager networks on a component's inputs; returns its outputs by the contract's names."""


@dataclass(frozen=True)
class ComponentCall:
    """A component's work, how many rows (samples of an MLP head, images of a decoder) it has, and its cost."""

    work: Work
    rows: int
    cost: Cost


@dataclass(frozen=True)
class EagerSides:
    """The eager sides: in the bundle's precisions, in float32, and compiled where that is asked for."""

    own: Any
    plain: Any
    fused: Any | None

    @classmethod
    def of(cls, workload: Workload, compiled: bool) -> EagerSides:
        """Return those of a workload."""
        model, vae, precisions = workload.model, workload.vae, workload.eager_precisions
        make = workload.family.eager_networks
        fused = make(model, vae, precisions, compiled=True) if compiled else None
        return cls(make(model, vae, precisions), make(model, vae, {}), fused)


def compared_components(workload: Workload, batch: int) -> list[Comparison]:
    """Compare the engines' outputs of every component's call with the eager model's in float32; nothing is timed."""
    found = []
    for call in workload.family.component_calls(workload, batch, False):
        (engines,) = (side for side in call.work.sides if side.name == ENGINES)
        outputs = engines.outputs()
        found += [
            compare(f"{ENGINES}: {call.work.name} {name}", outputs[name], call.work.reference[name], limit)
            for name, limit in call.work.limits.items()
        ]
    return found


def one_call(
    workload: Workload,
    networks: EagerSides,
    part: Component,
    host: Mapping[str, Tensor],
    eager: Call,
    rows: int,
    batch: int,
    cost: Cost,
) -> ComponentCall:
    """Return a call of one component with these inputs.

    Args:
        host: inputs by the contract's names, on the host.
        eager: does the same with a family's eager networks, on the workload's device.
        rows, cost: of the call. batch: of the generation that makes it.
    """
    inputs = {name: value.to(workload.device) for name, value in host.items()}
    precision = workload.precisions.get(part.name, "fp32")
    names = [output.name for output in part.outputs]
    wait, lane_wait, engine = wait_for(workload.device), wait_for_lane(workload.networks), workload.networks[part.name]

    def side(networks: Any) -> Callable[[], dict[str, Tensor]]:
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
    return ComponentCall(Work(part.name, batch, reference, limits, sides), rows, cost)
