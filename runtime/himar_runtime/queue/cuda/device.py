"""A lane of one GPU: a stream, the memory it owns, kernel launches and recorded graphs on that stream.

Everything is queued in the stream's order and the host goes on; only `download`, `synchronize` and the wait that
`mark` returns stop it. Lanes may share a stream. What one of them queued while another records would be recorded with
it, so everything goes on the stream under the stream's lock, and nobody waits for the stream under it.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels import EngineError, Launch
from himar_runtime.engines.engine import Device

from .driver import call, compute_capability, driver_api, runtime_api
from .program import load_kernels

log = logging.getLogger(__name__)


class CudaDevice:
    """One lane of a GPU. Not thread-safe: a lane belongs to one thread at a time.

    Attributes:
        device: which GPU.
        stream: the handle of the lane's CUDA stream.
        shared: whether lanes made from this one use its stream.
        queue: held while anything goes on the stream, and all along while something is recorded from it.
        epoch: raised by engines that gave up what graphs were recorded from.
    """

    def __init__(self, index: int, shared: bool = False, lender: CudaDevice | None = None) -> None:
        """Open a lane of GPU `index`.

        Args:
            shared: `another` gives lanes on this lane's stream, not on streams of their own.
            lender: the lane whose stream this one shares.

        Raises EngineError: no cuda-python, no driver, no such GPU, or the kernels do not load on it.
        """
        self._cudart = runtime_api()
        self.device = Device("cuda", index)
        capability = compute_capability(self.device)
        self.make_current()
        self._kernels = load_kernels(capability)
        self.shared = shared
        self._lender = lender  # the stream's owner outlives those who share it
        if lender is None:
            self.stream = int(call(self._cudart.cudaStreamCreateWithFlags, self._cudart.cudaStreamNonBlocking))
            self.queue = threading.RLock()
        else:
            self.stream, self.queue = lender.stream, lender.queue
        self._addresses: list[int] = []
        self._scratch, self._reserved = (0, 0), 0
        self.epoch = 0
        stream = (self.stream, self.queue, lender is None)
        release = weakref.finalize(self, _release, self._cudart, index, self._addresses, *stream)
        release.atexit = False  # engines may outlive it there; the process's end frees everything

    def make_current(self) -> None:
        """Make this GPU the calling thread's, as every thread must before its first call."""
        call(self._cudart.cudaSetDevice, self.device.index)

    def another(self) -> CudaDevice:
        """Return a lane with memory of its own, on a stream of its own unless this lane's is `shared`."""
        if self.shared:
            return CudaDevice(self.device.index, shared=True, lender=self._lender or self)
        return CudaDevice(self.device.index)

    def allocate(self, size: int) -> int:
        """Return the address of `size` bytes that live as long as the lane, at a multiple of 256."""
        try:
            with self.queue:  # ONNX Runtime records in a mode that forbids it to every thread
                address = int(call(self._cudart.cudaMalloc, size))
        except EngineError as error:
            free, total = call(self._cudart.cudaMemGetInfo)
            raise EngineError(
                f"{self.device} has no room for a buffer of {size:,} bytes ({free:,} of {total:,} are free): {error} "
                f"Build the bundle with a smaller --max-batch, or use fewer lanes."
            ) from error
        self._addresses.append(address)
        return address

    def reserve(self, size: int) -> None:
        """Say that `scratch` must hold `size` bytes. Said by every engine before any of them runs."""
        self._reserved = max(self._reserved, size)

    def scratch(self) -> int:
        """Return memory that all engines of the lane share, since they run one after another.

        Reserving more after it was used gives a new block from then on; the old one stays with its users.
        """
        address, room = self._scratch
        if self._reserved > room:
            address = self.allocate(self._reserved)
            self._scratch = (address, self._reserved)
        return address

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Queue a copy from the host; the array may be changed on return."""
        array = np.ascontiguousarray(array)
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        # Pageable memory is staged before the call returns.
        with self.queue:
            call(self._cudart.cudaMemcpyAsync, address, array.ctypes.data, array.nbytes, kind, self.stream)

    def copy(self, target: int, source: int, size: int) -> None:
        """Queue a copy of `size` bytes on the device."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        with self.queue:
            call(self._cudart.cudaMemcpyAsync, target, source, size, kind, self.stream)

    def clear(self, address: int, size: int) -> None:
        """Queue setting `size` bytes to zero."""
        with self.queue:
            call(self._cudart.cudaMemsetAsync, address, 0, size, self.stream)

    def download(self, address: int, array: NDArray[Any]) -> None:
        """Fill a contiguous host array once all that is queued before has run; waits for it."""
        if not array.flags.c_contiguous:
            raise ValueError("a download needs a C-contiguous array")
        self.synchronize()
        # Past the stream, on which other lanes may have queued more by now.
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        with self.queue:
            call(self._cudart.cudaMemcpy, array.ctypes.data, address, array.nbytes, kind)

    def launch(self, launch: Launch) -> None:
        """Queue a kernel."""
        grid, block = (launch.blocks, 1, 1), (launch.threads, 1, 1)
        values = tuple(argument.value for argument in launch.arguments)
        types = tuple(type(argument) for argument in launch.arguments)
        function = self._kernels.function(launch.name)
        with self.queue:
            call(
                driver_api().cuLaunchKernel,
                function, *grid, *block, launch.shared_bytes, self.stream, (values, types), 0,
            )  # fmt: skip

    def synchronize(self) -> None:
        """Wait until all that is queued has run. Raises EngineError when any of it failed."""
        self.mark()()

    def mark(self) -> Callable[[], None]:
        """Queue a mark; return a function that waits until the stream has passed it."""
        event = _Event(self._cudart)
        with self.queue:
            call(self._cudart.cudaEventRecord, event.handle, self.stream)
        return event.wait

    def record(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """Record what `enqueue` queues as a CUDA graph, without running it; return a function that queues the graph.

        Raises EngineError when something in it cannot be recorded; nothing has run then, and the stream is usable.
        """
        cudart = self._cudart
        with self.queue:
            # Thread-local: other lanes may allocate while this one records.
            mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
            call(cudart.cudaStreamBeginCapture, self.stream, mode)
            try:
                enqueue()
            except BaseException:
                self.abandon()
                raise
            graph = call(cudart.cudaStreamEndCapture, self.stream)
        try:
            executable = call(cudart.cudaGraphInstantiate, graph, 0)
        finally:
            call(cudart.cudaGraphDestroy, graph)
        return _Graph(cudart, executable, self.stream, self.queue).replay

    def abandon(self) -> None:
        """End a recording that failed, if there is one, so that the stream can be used again."""
        cudart = self._cudart
        _, recording = cudart.cudaStreamIsCapturing(self.stream)
        if recording != cudart.cudaStreamCaptureStatus.cudaStreamCaptureStatusNone:
            status, graph = cudart.cudaStreamEndCapture(self.stream)  # an error here follows from the first
            if int(status) == 0:
                cudart.cudaGraphDestroy(graph)
        cudart.cudaGetLastError()


class _Event:
    """A CUDA event, destroyed with its last reference, waited for or not."""

    def __init__(self, cudart: Any) -> None:
        self._cudart = cudart
        self.handle = call(cudart.cudaEventCreateWithFlags, cudart.cudaEventDisableTiming)
        weakref.finalize(self, cudart.cudaEventDestroy, self.handle).atexit = False

    def wait(self) -> None:
        call(self._cudart.cudaEventSynchronize, self.handle)


class _Graph:
    """An instantiated CUDA graph, destroyed with its last reference."""

    def __init__(self, cudart: Any, executable: Any, stream: int, queue: threading.RLock) -> None:
        self._cudart, self._executable, self._stream, self._queue = cudart, executable, stream, queue
        weakref.finalize(self, cudart.cudaGraphExecDestroy, executable).atexit = False

    def replay(self) -> None:
        with self._queue:
            call(self._cudart.cudaGraphLaunch, self._executable, self._stream)


def _release(cudart: Any, index: int, addresses: list[int], stream: int, queue: threading.RLock, owned: bool) -> None:
    """Free a lane's memory and its own stream, on whatever thread lets go of it. There is nobody to tell of errors."""
    status, current = cudart.cudaGetDevice()
    cudart.cudaSetDevice(index)
    with queue:
        cudart.cudaStreamSynchronize(stream)
        for address in addresses:
            cudart.cudaFree(address)
        if owned:
            cudart.cudaStreamDestroy(stream)
    if int(status) == 0:
        cudart.cudaSetDevice(current)
