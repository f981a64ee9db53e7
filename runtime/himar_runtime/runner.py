"""Defines what a family's loop is to the pipeline: it runs one request at a time and reports every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .request import Request
from .result import PreviewSource


class StepDone(Protocol):
    """A finished autoregressive step: `index` counts within its `phase`."""

    @property
    def phase(self) -> str:
        """Name of the phase."""
        ...

    @property
    def index(self) -> int:
        """0-based."""
        ...


ShouldContinue = Callable[[StepDone, PreviewSource], bool]


@dataclass(frozen=True)
class Generated:
    """What a run leaves of B images.

    Attributes:
        latents: float32 (B, C, h, w), VAE scale removed.
        pixels: uint8 (B, H, W, 3), RGB; None without a VAE decoder.
        arrays: what else the family gives, by name, the images along the first axis.
    """

    latents: NDArray[np.float32]
    pixels: NDArray[np.uint8] | None
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


class Runner(Protocol):
    """Runs one request at a time that fits the engines."""

    def run(self, request: Request[Any, Any], should_continue: ShouldContinue | None) -> Generated | None:
        """Generate. None when `should_continue`, asked after every autoregressive step, said no. Raises EngineError.

        Of an edit the pixels outside its masks are those given, in previews of full size too.
        """
        ...

    def clone(self) -> Runner:
        """Return a runner for another lane."""
        ...
