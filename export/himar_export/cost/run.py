"""Counts the work of a whole request, by component and phase, as the schedule demands it (docs/model.md §6).

Every autoregressive step is one run of the phase's transformer and a chain of runs of its head. How much each has to
do follows from the schedule exactly: the encoder sees more at every step, the MLP head takes the positions that the
step reveals, the DiT head all of its phase; guidance doubles the rows of every step whose scale is not 1.

Three ways of doing the same request are counted:

* "engine": what a bundle's engines do. Timestep embeddings are a table, scale vectors are folded into weights, and
  conditions are embedded once per autoregressive step (by the transformer, for all positions of its phase).
* "eager": `himar.generate`. The head embeds a step's conditions once, where it needs them, and one timestep a call.
* "released": the released code, which embeds conditions and every row's timestep anew in every diffusion step. The
  figures of docs/model.md §10 are these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from himar.families.hi_mar.config import ModelConfig, check_steps
from himar_kernels import InputError
from himar_kernels.families.hi_mar import Phase, SamplingConfig, Step, plan
from himar_kernels.families.hi_mar.phases import VAE_DECODER, PhaseInfo
from himar_runtime.decode import DECODE_BATCH

from .cost import Held, Peaks, Work, held_in
from .decoder import DecoderSizes, vae_decoder
from .networks import (
    condition,
    config_phases,
    eager_transformer,
    head,
    head_width,
    time_embedding,
    transformer,
)


@dataclass(frozen=True)
class Request:
    """What is asked for: a model, how it samples, images per run, and the VAE decoder, None for latents.

    precision: of the matmuls, by component; float32 where a component is not named.
    """

    config: ModelConfig
    sampling: SamplingConfig
    batch: int = 1
    decoder: DecoderSizes | None = None
    precision: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"batch is {self.batch}; ask for at least 1 image.")
        check_steps(self.config, self.sampling)

    def held(self, component: str) -> Held:
        """What the matmuls of a component hold. Raises BuildError for a precision that is unknown."""
        return held_in(self.precision.get(component, "fp32"), component)


@dataclass(frozen=True)
class ComponentCost:
    """What one component has to do in one phase of a request ("decode" for the VAE decoder).

    work: by the engines, in `calls` calls; eager_flops, released_flops: by the other two ways; compute_seconds,
    memory_seconds: the least that operations alone and bytes alone take; bound_seconds: the sum over all calls of the
    larger of both.
    """

    component: str
    phase: Phase | Literal["decode", "all"]
    calls: int
    work: Work
    eager_flops: int
    released_flops: int
    compute_seconds: float
    memory_seconds: float
    bound_seconds: float

    def __add__(self, other: ComponentCost) -> ComponentCost:
        return ComponentCost(
            self.component,
            self.phase,
            self.calls + other.calls,
            self.work + other.work,
            self.eager_flops + other.eager_flops,
            self.released_flops + other.released_flops,
            self.compute_seconds + other.compute_seconds,
            self.memory_seconds + other.memory_seconds,
            self.bound_seconds + other.bound_seconds,
        )


def request_costs(request: Request, peaks: Peaks) -> tuple[ComponentCost, ...]:
    """Return a request's costs, component by component in the order in which they run. Without peaks bounds are 0."""
    costs: dict[str, ComponentCost] = {}
    config = request.config
    phases = {phase.name: phase for phase in config_phases(config)}
    for step in plan(request.sampling, config.low_positions, config.high_positions):
        for cost in _step_costs(request, phases[step.phase], step, peaks):
            costs[cost.component] = costs[cost.component] + cost if cost.component in costs else cost
    ordered = list(costs.values())
    if request.decoder is not None:
        ordered.append(_decoding(request, request.decoder, peaks))
    return tuple(ordered)


def _decoding(request: Request, decoder: DecoderSizes, peaks: Peaks) -> ComponentCost:
    """Return the decoder's cost, which takes DECODE_BATCH images at once."""
    full, rest = divmod(request.batch, DECODE_BATCH)
    found = []
    for images, calls in ((DECODE_BATCH, full), (rest, 1)):
        if images and calls:
            work = vae_decoder(decoder, images, request.config.grid, request.held(VAE_DECODER).weight)
            flops = calls * work.flops
            found.append(_calls(VAE_DECODER, "decode", calls, work, flops, flops, peaks))
    return sum(found[1:], found[0])


def total_cost(costs: Sequence[ComponentCost]) -> ComponentCost:
    """Add up the components of a request under the name "total"."""
    total = costs[0]
    for cost in costs[1:]:
        total += cost
    return replace(total, component="total", phase="all")


def _step_costs(request: Request, phase: PhaseInfo, step: Step, peaks: Peaks) -> tuple[ComponentCost, ComponentCost]:
    """Transformer and head of one autoregressive step."""
    config, kind = request.config, phase.kind
    rows = request.batch * step.halves
    tokens = step.revealed if kind == "mlp" else phase.positions
    timesteps = rows * (tokens if kind == "mlp" else 1)
    low = phase.name == "low"
    calls = request.sampling.low_diffusion_steps if low else request.sampling.high_diffusion_steps

    work = transformer(config, phase, rows, step.masked, request.held(phase.transformer))
    plain = eager_transformer(config, phase, rows, step.masked).flops
    work += condition(config, kind, rows * phase.positions)
    encoding = _calls(phase.transformer, phase.name, 1, work, plain, plain, peaks)

    work = head(config, kind, rows, tokens, request.held(phase.head))
    width, embedding = head_width(config, kind), condition(config, kind, rows * tokens).flops
    eager = calls * (work.flops + time_embedding(1, width).flops) + embedding
    released = calls * (work.flops + time_embedding(timesteps, width).flops + embedding)
    return encoding, _calls(phase.head, phase.name, calls, work, eager, released, peaks)


def _calls(
    name: str, phase: Phase | Literal["decode"], calls: int, work: Work, eager: int, released: int, peaks: Peaks
) -> ComponentCost:
    """`calls` equal calls of a component; eager and released count the operations of all of them."""
    whole = work * calls
    compute, memory = peaks.compute_seconds(whole), peaks.memory_seconds(whole)
    return ComponentCost(name, phase, calls, whole, eager, released, compute, memory, peaks.seconds(work) * calls)
