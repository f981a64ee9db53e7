"""Defines what the loop needs of an engine, whatever runs it, and the device it runs on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from himar_kernels import EngineError

from ..bundle.manifest import ComponentSpec, TensorSpec

if TYPE_CHECKING:
    from ..queue.cuda.device import CudaDevice


class DeviceArray(Protocol):
    """An output that stayed where its engine runs. It is valid until that engine's next run."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes."""
        ...

    def numpy(self) -> NDArray[Any]:
        """Return a copy on the host."""
        ...


Tensor = NDArray[Any] | DeviceArray


class Engine(Protocol):
    """One component compiled for a backend. Not thread-safe: a clone per thread.

    Inputs are cast to the component's dtypes; float outputs come back as float32. A DeviceArray of the same
    backend and device is taken as it is, without a copy.
    """

    @property
    def spec(self) -> ComponentSpec:
        """The component's tensors."""
        ...

    def bind(self, inputs: Mapping[str, Tensor]) -> None:
        """Upload inputs once; every following run uses them until they are bound again or given to `run`."""
        ...

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
        """Run with these and the bound inputs; return every output on the host. Raises EngineError."""
        ...

    def run_on_device(self, inputs: Mapping[str, Tensor]) -> Mapping[str, DeviceArray]:
        """As `run`, but leave the outputs on the device, where another engine can take them as inputs."""
        ...

    def clone(self, lane: CudaDevice | None = None) -> Engine:
        """Return an engine that shares the weights and has its own buffers and nothing bound.

        lane: the GPU lane that it queues its runs on; None keeps this engine's.
        """
        ...


@dataclass(frozen=True)
class Device:
    """Where engines run: "cpu", or "cuda" with a GPU's index."""

    kind: str
    index: int = 0

    @classmethod
    def parse(cls, text: str) -> Device:
        """Read "cpu", "cuda" or "cuda:1"; EngineError for anything else."""
        found = re.fullmatch(r"(cpu)|cuda(?::([0-9]{1,4}))?", text) if isinstance(text, str) else None
        if found is None:
            raise EngineError(f"device is {text!r}; it must be 'cpu', 'cuda' or 'cuda:N' with a GPU's number.")
        return cls("cpu") if found[1] else cls("cuda", int(found[2] or 0))

    def __str__(self) -> str:
        return "cpu" if self.kind == "cpu" else f"{self.kind}:{self.index}"


def resolve_axes(spec: ComponentSpec, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Return the size of every dynamic axis from the inputs' shapes.

    Raises EngineError when an input is missing or unknown, or a shape contradicts the specification.
    """
    wanted = {tensor.name: tensor for tensor in spec.inputs}
    if shapes.keys() != wanted.keys():
        missing, unknown = sorted(wanted.keys() - shapes.keys()), sorted(shapes.keys() - wanted.keys())
        raise EngineError(f"{spec.name}: inputs missing: {missing or 'none'}; inputs unknown: {unknown or 'none'}.")
    axes: dict[str, int] = {}
    for name, shape in shapes.items():
        expected = wanted[name].shape
        fits = len(shape) == len(expected) and all(
            size == (axes.setdefault(axis, size) if isinstance(axis, str) else axis)
            for size, axis in zip(shape, expected, strict=True)
        )
        if not fits:
            known = {axis: axes[axis] for axis in expected if isinstance(axis, str) and axis in axes}
            raise EngineError(f"{spec.name}: input {name} has shape {shape}; it takes {expected} with {known}.")
    return axes


def resolved_shape(tensor: TensorSpec, axes: Mapping[str, int]) -> tuple[int, ...] | None:
    """Return a tensor's shape, or None when an axis is known to the engine alone."""
    sizes = [axes.get(size) if isinstance(size, str) else size for size in tensor.shape]
    known = [size for size in sizes if size is not None]
    return tuple(known) if len(known) == len(sizes) else None


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error, for a sentence of ours; its type's name where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
