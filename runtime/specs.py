"""What a manifest says, as data: tensors, components, the model's sizes, what built the engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from himar_kernels import Phase

from .phases import HeadKind, PhaseInfo, Pivots, model_phases


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype ("float32", "float16", "int64") and shape of a tensor; a string names a dynamic axis."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class ComponentSpec:
    """One exported network: its tensors, the sizes it was built for, and the engine that runs it.

    file: its ONNX model. engine_file: what `backend` loads. profile: axis → (least, usual, largest). weight_bytes: of
    all its weights; None where the manifest does not say.
    """

    name: str
    file: str
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profile: Mapping[str, tuple[int, int, int]]
    backend: str
    engine_file: str
    weight_bytes: int | None = None


@dataclass(frozen=True)
class ModelInfo:
    """The sizes that the loop needs (himar-model.md §1): names as in the model's configuration.

    pivots, low_head, high_head: what its phases are (see `phases`). With pivots "none" there is a single scale:
    cond_scale is 0, and low_head says nothing.
    """

    width: int
    classes: int
    buffer: int
    cond_scale: int
    img_size: int
    vae_stride: int
    vae_scale: float
    channels: int
    pivots: Pivots = "condition"
    low_head: HeadKind = "mlp"
    high_head: HeadKind = "dit"

    @property
    def phases(self) -> tuple[PhaseInfo, ...]:
        """The phases in order, each with its components."""
        return model_phases(
            self.pivots,
            self.low_head,
            self.high_head,
            low_side=self.cond_scale,
            high_side=self.grid,
            width=self.width,
            channels=self.channels,
        )

    def phase(self, name: Phase) -> PhaseInfo:
        """Return the phase of this name; the model must have it."""
        return next(phase for phase in self.phases if phase.name == name)

    @property
    def single_scale(self) -> bool:
        """True when there is no phase low."""
        return self.pivots == "none"

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the components that every bundle of the model has, in the order in which they run."""
        return tuple(name for phase in self.phases for name in (phase.transformer, phase.head))

    @property
    def positions(self) -> int:
        """L = S + N, the positions that the decoder predicts."""
        return self.low_positions + self.high_positions

    @property
    def grid(self) -> int:
        """Side h = w of the high-resolution token grid."""
        return self.img_size // self.vae_stride

    @property
    def low_positions(self) -> int:
        """S, positions of phase low."""
        return self.cond_scale**2

    @property
    def high_positions(self) -> int:
        """N, positions of phase high."""
        return self.grid**2


@dataclass(frozen=True)
class BackendInfo:
    """What built the engines, and for which GPUs; a compute capability is written "9.0".

    compute_capability: the only one that will do; None where that is not said. compute_capabilities: all that will do;
    None where the builder chose. least_compute_capability: this one and later ones will do. version_compatible: later
    versions of the library load the engines too, and its lean runtime does.
    """

    name: str
    version: str
    compute_capability: str | None
    compute_capabilities: tuple[str, ...] | None = None
    least_compute_capability: str | None = None
    version_compatible: bool = False


@dataclass(frozen=True)
class FileEntry:
    """Hash and size that a file of the bundle must have."""

    sha256: str
    bytes: int
