"""What runs a request's loop and decoder: on the host with engines beside it, or resident on a device."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from himar_kernels import EngineError
from himar_kernels.families.hi_mar import Step
from himar_kernels.families.hi_mar.phases import ModelInfo

from .bundle.bundle import Bundle
from .decode import decode, to_latents
from .engines.networks import Networks
from .families.hi_mar.loop import Request, run_two_phase
from .preview import Preview

log = logging.getLogger(__name__)

ShouldContinue = Callable[[Step, Preview], bool]


@dataclass(frozen=True)
class Generated:
    """Tokens of a request, times the VAE scale, float32 low (B, S, C) and high (B, N, C), and pixels (B, H, W, 3)."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    pixels: NDArray[np.uint8] | None


class Runner(Protocol):
    """Runs one request at a time that fits the engines."""

    def run(self, request: Request, should_continue: ShouldContinue | None) -> Generated | None:
        """Generate. None when `should_continue`, asked after every autoregressive step, said no. Raises EngineError."""
        ...

    def clone(self) -> Runner:
        """Return a runner for another lane."""
        ...


class HostRunner:
    """The loop in NumPy on the host; engines run one component at a time, wherever they live."""

    def __init__(self, networks: Networks, model: ModelInfo) -> None:
        self._networks = networks
        self._model = model

    def run(self, request: Request, should_continue: ShouldContinue | None) -> Generated | None:
        """See Runner.run."""
        decoder = self._networks.vae_decoder

        def ask(step: Step, low: NDArray[np.float32]) -> bool:
            return should_continue is None or should_continue(step, Preview(self._model, low.copy, lambda: decoder))

        tokens = run_two_phase(self._networks, self._model, request, ask)
        if tokens is None:
            return None
        pixels = None if decoder is None else decode(decoder, to_latents(tokens.high, self._model.vae_scale))
        return Generated(tokens.low, tokens.high, pixels)

    def clone(self) -> HostRunner:
        """See Runner.clone."""
        return HostRunner(self._networks.clone(), self._model)


def choose_runner(bundle: Bundle, networks: Networks) -> Runner:
    """Return the resident loop where the engines have a GPU lane, else the loop on the host, saying why."""
    if networks.lane is None:
        return HostRunner(networks, bundle.manifest.model)
    from .families.hi_mar.resident.runner import ResidentRunner

    try:
        return ResidentRunner(networks, networks.lane, bundle.manifest.model, bundle.manifest.max_batch)
    except EngineError as error:
        log.warning("the loop runs on the host, not on the GPU: %s", error)
        return HostRunner(networks, bundle.manifest.model)
