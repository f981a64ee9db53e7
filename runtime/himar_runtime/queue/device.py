"""What the resident loop needs of a device and of engines that run there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from himar_kernels import Launch

from ..bundle.manifest import ComponentSpec

_ALIGNMENT = 256
"""What engines ask of an address."""


@dataclass(frozen=True)
class DeviceTensor:
    """A C-contiguous tensor that lies at an address on the device."""

    address: int
    shape: tuple[int, ...]


class ResidentDevice(Protocol):
    """A lane: memory and a queue that runs in order. See `himar_runtime.queue.cuda.device.CudaDevice`.

    epoch: changes when graphs recorded before may not be replayed any more.
    """

    epoch: int

    def make_current(self) -> None:
        """Prepare the calling thread."""
        ...

    def allocate(self, size: int) -> int:
        """Return the address of `size` bytes that live as long as the lane."""
        ...

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Queue a copy from the host; the array may be changed on return."""
        ...

    def copy(self, target: int, source: int, size: int) -> None:
        """Queue a copy on the device."""
        ...

    def clear(self, address: int, size: int) -> None:
        """Queue setting bytes to zero."""
        ...

    def download(self, address: int, array: NDArray[Any]) -> None:
        """Fill a host array once all that is queued before has run."""
        ...

    def launch(self, launch: Launch) -> None:
        """Queue a kernel."""
        ...

    def synchronize(self) -> None:
        """Wait until all that is queued has run."""
        ...

    def mark(self) -> Callable[[], None]:
        """Queue a mark; return a function that waits until the queue has passed it."""
        ...

    def record(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """Record what `enqueue` queues without running it; return a function that queues it again."""
        ...


def allocate_together(device: ResidentDevice, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return addresses of buffers of these sizes in bytes, one block in all, each at a multiple of 256 of its start."""
    offsets, end = {}, 0
    for name, size in sizes.items():
        offsets[name] = end
        end += -(-size // _ALIGNMENT) * _ALIGNMENT
    start = device.allocate(end)
    return {name: start + offset for name, offset in offsets.items()}


@runtime_checkable
class ResidentEngine(Protocol):
    """An engine whose inputs and outputs lie on the device."""

    @property
    def spec(self) -> ComponentSpec:
        """The component's tensors."""
        ...

    @property
    def recordable(self) -> str | None:
        """None if a run can be recorded in a graph, else the reason why not."""
        ...

    def enqueue(self, tensors: Mapping[str, DeviceTensor]) -> None:
        """Queue a run with every input and output at its place; EngineError when the engine refuses."""
        ...

    def finish(self) -> None:
        """Called when a generation is over: time to keep what was compiled for its shapes."""
        ...
