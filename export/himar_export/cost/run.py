"""Counts the work of a whole request, by component, as its family's schedule demands it.

Three ways of doing the same request are counted:

* "engine": what a bundle's engines do.
* "eager": what himar's own sampler in PyTorch does.
* "released": what the released code does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from himar_kernels import InputError
from himar_kernels.families.registry import VAE_DECODER
from himar_runtime.decode import DECODE_BATCH
from himar_runtime.families.family import Sampling

from .cost import Held, Peaks, Work, held_in
from .decoder import DecoderSizes, vae_decoder

DECODE = "decode"
"""The phase of the VAE decoder."""


@dataclass(frozen=True)
class CostRequest(ABC):
    """What is asked for: a model, how it samples, images per run, and the VAE decoder, None for latents.

    Families have a class of their own. precision: of the matmuls, by component; float32 where a component is not named.
    """

    config: Any
    sampling: Sampling
    batch: int = 1
    decoder: DecoderSizes | None = None
    precision: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"batch is {self.batch}; ask for at least 1 image.")

    @abstractmethod
    def network_costs(self, peaks: Peaks) -> Iterator[ComponentCost]:
        """Yield what the networks before the decoder do, call by call or in groups, in the order in which they run."""

    @property
    @abstractmethod
    def latent_side(self) -> int:
        """Side of the latent that the decoder takes."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What is asked for, but the batch."""

    @property
    @abstractmethod
    def ways(self) -> str:
        """What eager and the released code do, for the report."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What else there is to say, a sentence each."""
        return ()

    def held(self, component: str) -> Held:
        """What the matmuls of a component hold. Raises BuildError for a precision that is unknown."""
        return held_in(self.precision.get(component, "fp32"), component)


@dataclass(frozen=True)
class ComponentCost:
    """What one component has to do in one phase of a request (DECODE for the VAE decoder).

    work: by the engines, in `calls` calls; eager_flops, released_flops: by the other two ways; compute_seconds,
    memory_seconds: the least that operations alone and bytes alone take; bound_seconds: the sum over all calls of the
    larger of both.
    """

    component: str
    phase: str
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


def request_costs(request: CostRequest, peaks: Peaks) -> tuple[ComponentCost, ...]:
    """Return a request's costs, component by component in the order in which they run. Without peaks bounds are 0."""
    costs: dict[str, ComponentCost] = {}
    for cost in request.network_costs(peaks):
        costs[cost.component] = costs[cost.component] + cost if cost.component in costs else cost
    ordered = list(costs.values())
    if request.decoder is not None:
        ordered.append(_decoding(request, request.decoder, peaks))
    return tuple(ordered)


def _decoding(request: CostRequest, decoder: DecoderSizes, peaks: Peaks) -> ComponentCost:
    """Return the decoder's cost, which takes DECODE_BATCH images at once."""
    full, rest = divmod(request.batch, DECODE_BATCH)
    found = []
    for images, calls in ((DECODE_BATCH, full), (rest, 1)):
        if images and calls:
            work = vae_decoder(decoder, images, request.latent_side, request.held(VAE_DECODER).weight)
            flops = calls * work.flops
            found.append(calls_cost(VAE_DECODER, DECODE, calls, work, flops, flops, peaks))
    return sum(found[1:], found[0])


def total_cost(costs: Sequence[ComponentCost]) -> ComponentCost:
    """Add up the components of a request under the name "total"."""
    total = costs[0]
    for cost in costs[1:]:
        total += cost
    return replace(total, component="total", phase="all")


def calls_cost(name: str, phase: str, calls: int, work: Work, eager: int, released: int, peaks: Peaks) -> ComponentCost:
    """Return `calls` equal calls of a component; eager and released count the operations of all of them."""
    whole = work * calls
    compute, memory = peaks.compute_seconds(whole), peaks.memory_seconds(whole)
    return ComponentCost(name, phase, calls, whole, eager, released, compute, memory, peaks.seconds(work) * calls)
