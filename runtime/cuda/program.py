"""Our kernels on a GPU: those compiled ahead where they lie ready, else compiled now by NVRTC and kept."""

from __future__ import annotations

import functools
import logging
from typing import Any

from himar_kernels import EngineError
from himar_kernels.cuda_sources import (
    COMPILE_OPTIONS,
    compiled_directory,
    cubin_name,
    find_cubin,
    is_cubin,
    main_source,
    source_directory,
)

from ..cache import cache_directory, keep
from ..engine import first_line
from .driver import DriverMissingError, call, driver_api

log = logging.getLogger(__name__)


class Kernels:
    """A loaded library of kernels."""

    def __init__(self, cubin: bytes) -> None:
        """Load a compiled library on any GPU that can run it; EngineError when this one cannot."""
        driver = driver_api()
        self._driver = driver
        self._library = call(driver.cuLibraryLoadData, cubin, [], [], 0, [], [], 0)
        self._functions: dict[str, Any] = {}

    def function(self, name: str) -> Any:
        """Return the handle of an entry, as cuLaunchKernel takes it."""
        found = self._functions.get(name)
        if found is None:
            kernel = call(self._driver.cuLibraryGetKernel, self._library, name.encode())
            found = self._functions[name] = self._driver.CUfunction(int(kernel))
        return found


@functools.cache
def load_kernels(capability: tuple[int, int]) -> Kernels:
    """Return the kernels for a compute capability: from the package, from the cache, or compiled now."""
    for directory in (compiled_directory(), cache_directory("kernels")):
        path = find_cubin(directory, capability)
        if path is None:
            continue
        cubin = path.read_bytes()
        if is_cubin(cubin):
            log.debug("kernels from %s", path)
            return Kernels(cubin)
        log.warning("%s holds no compiled kernels (%d bytes) and is left out; delete it", path, len(cubin))
    architecture = f"{capability[0]}{capability[1]}"
    log.info("compiling the kernels for sm_%s with NVRTC", architecture)
    cubin = compile_kernels(architecture)
    keep(cache_directory("kernels") / cubin_name(architecture), cubin)
    return Kernels(cubin)


def compile_kernels(architecture: str) -> bytes:
    """Compile kernels.cu with NVRTC for an architecture such as "90"; needs no GPU.

    The sources include no header but their own, so NVRTC's wheel suffices: no CUDA toolkit is needed. Raises
    EngineError when NVRTC is not installed, refuses (with the compiler's first line), or returns no kernels.
    """
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise EngineError(
            "the kernels are compiled with NVRTC, which is not installed here; pip install 'himar[kernels]'."
        ) from error
    source = main_source()
    try:
        program = call(nvrtc.nvrtcCreateProgram, source.read_bytes(), source.name.encode(), 0, [], [])
    except DriverMissingError as error:  # NVRTC is a library by itself: it needs no driver
        raise EngineError(
            f"the kernels are compiled with NVRTC, whose library does not load here "
            f"({first_line(error.__cause__ or error)}); pip install 'himar[kernels]'."
        ) from error
    options = [*COMPILE_OPTIONS, f"--gpu-architecture=sm_{architecture}", f"--include-path={source_directory()}"]
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        if int(status) != 0:
            message = bytearray(call(nvrtc.nvrtcGetProgramLogSize, program))
            call(nvrtc.nvrtcGetProgramLog, program, message)
            lines = message.rstrip(b"\0").decode(errors="replace").strip().splitlines()
            raise EngineError(
                f"NVRTC does not compile the kernels for sm_{architecture}: {lines[0] if lines else status.name}"
            )
        cubin = bytearray(call(nvrtc.nvrtcGetCUBINSize, program))
        call(nvrtc.nvrtcGetCUBIN, program, cubin)
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    if not is_cubin(cubin):  # some versions and options give nothing, and no error
        raise EngineError(
            f"NVRTC compiled the kernels for sm_{architecture} to {len(cubin)} bytes that hold no kernels; install "
            f"another version of nvidia-cuda-nvrtc, or compile them ahead with `make cuda`."
        )
    return bytes(cubin)
