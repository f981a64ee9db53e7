"""Where the tests of the CUDA kernels run them: the host build with several thread counts, and a GPU.

Also ONNX Runtime's headers, and our operators for it compiled for the CPU.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from himar_kernels import Launch
from himar_kernels.arithmetic.draws import image_origins
from himar_kernels.build.fused import compile_for_cpu
from himar_kernels.families.hi_mar import STEP_STATE
from tests.closeness import assert_each_near

CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
HOST: dict[str, dict[str, Any]] = {
    "host": {},
    "host-1": {"threads": 1},
    "host-3": {"threads": 3},
    "host-32": {"threads": 32},
    "host-256": {"threads": 256},
    "host-backwards": {"backwards": True},
    "host-2-blocks": {"threads": 7, "blocks": 2},  # a grid smaller than the work
}


class Workspace:
    """Arrays on a device, by address."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._arrays: dict[int, tuple[tuple[int, ...], np.dtype]] = {}

    def put(self, array: NDArray, shift: int = 0) -> int:
        """Return the address of a copy, `shift` bytes after what an allocation is aligned to."""
        array = np.asarray(array)
        address = self._device.allocate(array.nbytes + shift) + shift
        self._arrays[address] = (array.shape, array.dtype)
        self._device.upload(address, np.ascontiguousarray(array))
        return address

    def empty(self, shape: tuple[int, ...], dtype: Any = np.float32, shift: int = 0) -> int:
        """Return the address of an array that holds nothing a test would take for a result."""
        unwritten = np.nan if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
        return self.put(np.full(shape, unwritten, dtype), shift)

    def state(self, **fields: Any) -> int:
        """Return the address of a StepState with these fields, the others 0."""
        state = np.zeros((), STEP_STATE)
        for name, value in fields.items():
            state[name] = value
        return self.put(state)

    def origins(self, draws: object, images: NDArray) -> int:
        """Return the address of what the draws of images come from."""
        return self.put(image_origins(draws, images))

    def fault(self, word: int = 0) -> int:
        return self.put(np.array(word, np.uint32))

    def set(self, address: int, array: NDArray) -> None:
        shape, dtype = self._arrays[address]
        assert array.shape == shape
        self._device.upload(address, np.ascontiguousarray(array, dtype))

    def get(self, address: int) -> NDArray:
        shape, dtype = self._arrays[address]
        array = np.empty(shape, dtype)
        self._device.synchronize()
        self._device.download(address, array)
        self._device.synchronize()
        return array

    def run(self, *launches: Launch) -> None:
        for launch in launches:
            self._device.launch(launch)
        self._device.synchronize()


def _workspace(kind: str, host_kernels: Any) -> Workspace:
    if kind == "cuda":
        from himar_runtime.queue.cuda.device import CudaDevice

        return Workspace(CudaDevice(0))
    return Workspace(host_kernels.device(**HOST[kind]))


@pytest.fixture(params=[*HOST, CUDA])
def workspace(request: pytest.FixtureRequest, host_kernels: Any) -> Iterator[Workspace]:
    """Every way of running blocks and their threads; for small shapes."""
    yield _workspace(request.param, host_kernels)


@pytest.fixture(params=["host", CUDA])
def large_workspace(request: pytest.FixtureRequest, host_kernels: Any) -> Iterator[Workspace]:
    """The launches as they are; for large shapes."""
    yield _workspace(request.param, host_kernels)


def _close(actual: NDArray, expected: NDArray, tolerance: float = 1e-6) -> None:
    assert actual.dtype == expected.dtype == np.float32
    assert_each_near(actual, expected, tolerance)


@pytest.fixture(scope="session")
def assert_close() -> Any:
    return _close


@pytest.fixture(scope="session")
def include(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX Runtime's C++ headers: those that `make cuda` or `make cpp` fetched, else fetched now."""
    root = Path(__file__).parents[2]
    folder = root / "build" / "cpp-deps"
    if not (folder / "include" / "onnxruntime" / "onnxruntime_cxx_api.h").exists():
        folder = tmp_path_factory.mktemp("headers")
        script = root / "runtime" / "cpp" / "scripts" / "get-dependencies.sh"
        done = subprocess.run([script, folder, sys.executable], capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            pytest.skip(f"there are no headers of ONNX Runtime: {done.stderr.strip().splitlines()[-1]}")
    return folder / "include" / "onnxruntime"


@pytest.fixture(scope="session")
def cpu_library(include: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("c++") or shutil.which("g++")
    assert compiler, "the operators' host build needs a C++17 compiler"
    path = tmp_path_factory.mktemp("fused") / "libhimar_fused_cpu.so"
    compile_for_cpu(compiler, include, path)
    return path
