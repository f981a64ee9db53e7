"""Defines what a manifest says, as data: tensors, components, the model's sizes, what built the engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype ("float32", "float16", "int64") and shape of a tensor; a string names a dynamic axis."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class ComponentSpec:
    """One exported network: its tensors, the sizes it was built for, and the engine that runs it.

    file: its ONNX model. engine_file: what `backend` loads. profile: axis → (min, opt, max). weight_bytes: of
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
class BackendInfo:
    """What built the engines, and for which GPUs; a compute capability is written "9.0".

    compute_capability: the only one supported; None if unknown. compute_capabilities: all that are supported;
    None where the builder chose. least_compute_capability: this one and later ones. version_compatible: later
    versions of the library load the engines too, and its lean runtime does.
    """

    name: str
    version: str
    compute_capability: str | None
    compute_capabilities: tuple[str, ...] | None = None
    least_compute_capability: str | None = None
    version_compatible: bool = False


@dataclass(frozen=True)
class TokenizerInfo:
    """How a bundle's prompts become tokens: a byte-pair vocabulary and its merges, by their files in the bundle.

    length: K, tokens of every prompt. start, end, padding: ids of the special tokens.
    """

    vocabulary: str
    merges: str
    length: int
    start: int
    end: int
    padding: int


@dataclass(frozen=True)
class FileEntry:
    """Hash and size that a file of the bundle must have."""

    sha256: str
    bytes: int
