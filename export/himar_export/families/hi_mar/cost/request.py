"""Counts the work of a Hi-MAR request, by component and phase, as the schedule demands it (docs/model.md §6).

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

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from himar.families.hi_mar.config import ModelConfig, check_steps
from himar_export.cost.cost import Peaks
from himar_export.cost.run import ComponentCost, CostRequest, calls_cost
from himar_kernels.families.hi_mar import SamplingConfig, Step, plan
from himar_kernels.families.hi_mar.phases import PhaseInfo

from .networks import (
    condition,
    config_phases,
    dit_held,
    dit_modulations,
    eager_transformer,
    head,
    head_width,
    time_embedding,
    transformer,
)


@dataclass(frozen=True)
class HiMarRequest(CostRequest):
    """See `himar_export.cost.run.CostRequest`."""

    config: ModelConfig
    sampling: SamplingConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self.config, self.sampling)

    def network_costs(self, peaks: Peaks) -> Iterator[ComponentCost]:
        """See CostRequest.network_costs."""
        phases = {phase.name: phase for phase in config_phases(self.config)}
        for step in plan(self.sampling, self.config.low_positions, self.config.high_positions):
            yield from _step_costs(self, phases[step.phase], step, peaks)

    @property
    def latent_side(self) -> int:
        """See CostRequest.latent_side."""
        return self.config.grid

    @property
    def title(self) -> str:
        """See CostRequest.title."""
        settings = self.sampling.to_dict()
        parts = []
        for phase in (each.name for each in self.config.phases):
            own = {
                name.removeprefix(f"{phase}_"): value
                for name, value in settings.items()
                if name.startswith(f"{phase}_")
            }
            solver = f" of {own['solver']}" if "solver" in own else ""
            chain = _listed(own.get("diffusion_counts") or [own["diffusion_steps"]])
            guidance = _listed(own.get("guidances") or [own["guidance"]])
            forecast = f", one index in {own['forecast']} evaluated" if "forecast" in own else ""
            parts.append(f"{own['steps']} {phase} steps × {chain}{solver}, guidance {guidance}{forecast}")
        if self.sampling.guidance_interval > 1:
            parts.append(f"both halves in one of {self.sampling.guidance_interval} evaluations")
        if self.sampling.modulation_interval > 1:
            parts.append(f"modulations in one of {self.sampling.modulation_interval}")
        return "; ".join(parts)

    @property
    def ways(self) -> str:
        """See CostRequest.ways."""
        return (
            "eager: himar.generate. released: conditions and timesteps embedded anew in every diffusion step, as the "
            "released code does"
        )


def _listed(values: Sequence[float]) -> str:
    return "/".join(f"{value:g}" for value in values)


def _step_costs(request: HiMarRequest, phase: PhaseInfo, step: Step, peaks: Peaks) -> Iterator[ComponentCost]:
    """Transformer and head of one autoregressive step, the head's runs by how many halves they have."""
    config, kind = request.config, phase.kind
    rows = request.batch * step.halves
    tokens = step.revealed if kind == "mlp" else phase.positions

    work = transformer(config, phase, rows, step.masked, request.held(phase.transformer))
    plain = eager_transformer(config, phase, rows, step.masked).flops
    work += condition(config, kind, rows * phase.positions)
    yield calls_cost(phase.transformer, phase.name, 1, work, plain, plain, peaks)

    width, embedding = head_width(config, kind), condition(config, kind, rows * tokens).flops
    evaluations = request.sampling.evaluations(phase.name)
    evaluated = evaluations.halves(step.diffusion_steps, step.halves)
    parts = phase.held if evaluations.modulation_interval > 1 else None
    if parts is not None:  # eager and released code make the modulations in every evaluation, which is counted below
        for halves, calls in sorted(Counter(evaluations.modulated(evaluated)).items()):
            if halves:
                samples = request.batch * halves * tokens
                yield calls_cost(
                    parts[0], phase.name, calls, dit_modulations(config, samples, request.held(phase.head)), 0, 0, peaks
                )
    for halves, calls in sorted(Counter(evaluated).items()):
        if not halves:
            continue
        rows = request.batch * halves
        work = whole = head(config, kind, rows, tokens, request.held(phase.head))
        if parts is not None:
            work = dit_held(config, rows, tokens, request.held(phase.head))
        eager = calls * (whole.flops + time_embedding(1, width).flops)
        if halves == step.halves:
            eager += embedding
        timesteps = rows * (tokens if kind == "mlp" else 1)
        anew = time_embedding(timesteps, width).flops + condition(config, kind, rows * tokens).flops
        name = phase.head if parts is None else parts[1]
        yield calls_cost(name, phase.name, calls, work, eager, calls * (whole.flops + anew), peaks)
