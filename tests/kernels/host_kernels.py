"""The host build of the CUDA kernels: compiled by the system's C++ compiler, run through the same launches.

`tests/conftest.py` gives it to tests as the fixture `host_kernels`.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from himar_kernels import Launch
from himar_kernels.build.sources import source_directory

GUARD_BYTES, GUARD = 64, 0x5A
UNWRITTEN = 0xFF  # NaN as float32, -1 as an integer


class HostKernels:
    """The kernels as functions of this process; `folder` takes the compiled libraries."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._libraries: dict[bool, ctypes.CDLL] = {}

    def run(
        self, launch: Launch, threads: int | None = None, backwards: bool = False, blocks: int | None = None
    ) -> None:
        """Run a launch on host addresses, with another number of threads per block or of blocks if asked.

        `backwards` runs threads and blocks from the last to the first.
        """
        if backwards not in self._libraries:
            self._libraries[backwards] = self._compile(backwards)
        entry = getattr(self._libraries[backwards], launch.name)
        entry.restype = None
        grid = (ctypes.c_uint32(blocks or launch.blocks), ctypes.c_uint32(threads or launch.threads))
        entry(*grid, *launch.arguments)

    def device(self, threads: int | None = None, backwards: bool = False, blocks: int | None = None) -> HostDevice:
        """Return a device in host memory that runs every launch this way."""
        return HostDevice(self, threads, backwards, blocks)

    def _compile(self, backwards: bool) -> ctypes.CDLL:
        compiler = next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None)
        assert compiler, "the host build of the kernels needs a C++17 compiler: install g++ or clang++"
        library = self._folder / f"himar_kernels_{'backwards' if backwards else 'host'}.so"
        options = ["-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
        options += ["-DHIMAR_BACKWARDS"] if backwards else []
        source = source_directory() / "host.cpp"
        subprocess.run([compiler, *options, str(source), "-o", str(library)], check=True)
        return ctypes.CDLL(str(library))


class HostDevice:
    """Host memory behind the methods of `himar_runtime.queue.cuda.device.CudaDevice` that a loop needs.

    Every allocation stands between guard bytes; `synchronize` asserts that they are untouched.
    """

    def __init__(self, kernels: HostKernels, threads: int | None, backwards: bool, blocks: int | None) -> None:
        self._kernels = kernels
        self._how = (threads, backwards, blocks)
        self._buffers: list[tuple[NDArray[np.uint8], int, int]] = []

    def allocate(self, size: int) -> int:
        """Return the address of `size` bytes at a multiple of 256, as a device gives them."""
        buffer = np.full(size + 256 + 2 * GUARD_BYTES, GUARD, np.uint8)
        first = -(buffer.ctypes.data + GUARD_BYTES) % 256 + GUARD_BYTES
        buffer[first : first + size] = UNWRITTEN
        self._buffers.append((buffer, first, size))
        return buffer.ctypes.data + first

    def upload(self, address: int, array: NDArray) -> None:
        array = np.ascontiguousarray(array)
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def download(self, address: int, array: NDArray) -> None:
        assert array.flags.c_contiguous
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def launch(self, launch: Launch) -> None:
        self._kernels.run(launch, *self._how)

    def synchronize(self) -> None:
        for buffer, first, size in self._buffers:
            outside = (buffer[:first] == GUARD).all() and (buffer[first + size :] == GUARD).all()
            assert outside, f"a kernel wrote outside a buffer of {size} bytes"
