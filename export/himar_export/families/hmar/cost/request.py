"""Counts the work of an HMAR request, by component, as the schedule demands it (docs/hmar-model.md §5, §8).

Every forward is one run of the trunk and of a tail over all cells of its scale; `conditions` run once. Three ways of
doing the same request are counted:

* "engine": what a bundle's engines do. Rows are doubled where a forward has guidance that counts (`Forward.halves`).
* "eager": himar's sampler. As the engines, but it embeds the words of one half, and none at scale 0.
* "released": the released code, which runs every forward on both halves and makes all modulations in every forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from himar.families.hmar.config import ModelConfig
from himar_export.cost.cost import FLOAT32, Peaks, Work
from himar_export.cost.run import ComponentCost, CostRequest, calls_cost
from himar_export.report import readable
from himar_kernels import InputError
from himar_kernels.families.hmar import Forward, SamplingConfig, plan
from himar_kernels.families.hmar.sizes import CONDITIONS, MASKED_TAIL, NEXT_SCALE_TAIL, TRUNK, VAR_TAIL, VAR_TRUNK

from . import networks

PYRAMID = "pyramid"
"""The maps between scales: no component of a bundle, the loop computes them."""
CLASS, SCALES, MASKED = "class", "scales", "masked"
"""Phases: once per image, in forwards of every scale, in its masked steps alone."""


@dataclass(frozen=True)
class HmarRequest(CostRequest):
    """See `himar_export.cost.run.CostRequest`."""

    config: ModelConfig
    sampling: SamplingConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        self.config.check_sampling(self.sampling)
        if self.sampling.all_scales and not 0 < self.config.tail < self.config.depth:
            raise InputError(
                f"all_scales is set, but tail is {self.config.tail} of {self.config.depth} blocks: such a model has no "
                f"networks for it; leave all_scales out."
            )

    def network_costs(self, peaks: Peaks) -> Iterator[ComponentCost]:
        """See CostRequest.network_costs."""
        forwards = plan(self.sampling, self.config.scales)
        yield self._conditions(len(forwards), peaks)
        for forward in forwards:
            yield from self._forward(forward, peaks)
        for forward in forwards:
            yield self._maps(forward, peaks)

    @property
    def latent_side(self) -> int:
        """See CostRequest.latent_side."""
        return self.config.scales.side

    @property
    def title(self) -> str:
        """See CostRequest.title."""
        scales, forwards = self.config.scales, plan(self.sampling, self.config.scales)
        parts = [f"{len(scales)} scales"]
        if masked := len(forwards) - len(scales):
            parts.append(f"{masked} masked {'steps' if masked > 1 else 'step'}")
        if self.sampling.all_scales:
            parts.append("all coarser scales in view")
        return ", ".join([*parts, f"guidance {self.sampling.guidance:g}"])

    @property
    def ways(self) -> str:
        """See CostRequest.ways."""
        return (
            "eager: himar's sampler. released: both halves of the rows and all modulations in every forward, as the "
            "released code does"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """See CostRequest.notes."""
        if not self.sampling.all_scales:
            return ()
        rows = self.batch * (2 if self.sampling.guidance else 1)
        size = 2 * rows * self.config.scales.tokens * self.config.width * self.config.depth * FLOAT32
        return (f"Keys and values of all scales take {readable(size / self.batch)} per image, in float32.",)

    def _conditions(self, forwards: int, peaks: Peaks) -> ComponentCost:
        rows = self.batch * (2 if self.sampling.guidance else 1)
        work = networks.conditions(self.config, rows, self.held(CONDITIONS))
        again = networks.modulations(self.config, 2 * self.batch, self.config.depth, 1).flops
        return calls_cost(CONDITIONS, CLASS, 1, work, work.flops, forwards * again, peaks)

    def _forward(self, forward: Forward, peaks: Peaks) -> Iterator[ComponentCost]:
        """Trunk and tail of one forward."""
        config, var = self.config, self.sampling.all_scales
        rows, cells = self.batch * forward.halves, config.scales.cells[forward.scale]
        once = networks.embedding(config, self.batch, cells).flops if forward.scale else 0
        less = networks.embedding(config, rows, cells).flops - once
        yield self._call(VAR_TRUNK if var else TRUNK, forward, networks.trunk, config.base, less, peaks)
        name = VAR_TAIL if var else MASKED_TAIL if forward.step else NEXT_SCALE_TAIL
        yield self._call(name, forward, networks.tail, config.tail, 0, peaks)

    def _call(
        self, name: str, forward: Forward, part: Callable[..., Work], blocks: int, less: int, peaks: Peaks
    ) -> ComponentCost:
        """One call of a component of so many blocks; less: operations that eager does without."""
        config, held, var = self.config, self.held(name), self.sampling.all_scales
        cells, rows = config.scales.cells[forward.scale], self.batch * forward.halves
        past = config.scales.starts[forward.scale] if var else 0
        work = part(config, rows, cells, held, past)
        if var:
            work += networks.kept(config, blocks, rows, cells)
        released = part(config, 2 * self.batch, cells, held, past).flops
        phase = MASKED if name == MASKED_TAIL else SCALES
        return calls_cost(name, phase, 1, work, work.flops - less, released, peaks)

    def _maps(self, forward: Forward, peaks: Peaks) -> ComponentCost:
        """The maps that the loop computes before and after a forward."""
        config, batch, scale = self.config, self.batch, forward.scale
        work = networks.contribution(config, batch, scale)
        inputs = (scale > 0) + (forward.step > 0)
        work += networks.scale_input(config, batch, scale) * inputs
        if self.sampling.smooth:
            work += networks.mixed(config, batch, config.scales.cells[scale])
        return calls_cost(PYRAMID, SCALES, 1, work, work.flops, work.flops, peaks)
