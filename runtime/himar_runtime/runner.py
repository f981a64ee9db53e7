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

from .bundle.bundle import Bundle
from .engines.networks import Networks
from .families.hi_mar.loop import Request
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


def choose_runner(bundle: Bundle, networks: Networks) -> Runner:
    """Return the loop on the GPU lane of the engines where they have one, else the loop on the host, saying why."""
    from .families.hi_mar.runner import HostRunner, LoopRunner

    if networks.lane is None:
        return HostRunner(networks, bundle.manifest.model)
    try:
        return LoopRunner.resident(networks, networks.lane, bundle.manifest.model, bundle.manifest.max_batch)
    except EngineError as error:
        log.warning("the loop runs on the host, not on the GPU: %s", error)
        return HostRunner(networks, bundle.manifest.model)
