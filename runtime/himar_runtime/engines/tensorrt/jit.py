"""Keeps what TensorRT-RTX compiles at run time, for the GPU and the shapes it meets, between processes."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

from himar_runtime.cache import cache_directory, keep

from .library import library_version

log = logging.getLogger(__name__)


class JitCache:
    """The runtime configuration of one engine with its cache of compiled kernels.

    Attributes:
        config: what contexts are created with.
        path: where the cache is kept.
        used: whether a context was made since the cache was last kept.
    """

    def __init__(self, library: ModuleType, engine: Any, path: Path) -> None:
        self.path = path
        self.config = engine.create_runtime_config()
        strategy = library.ExecutionContextAllocationStrategy.USER_MANAGED
        self.config.set_execution_context_allocation_strategy(strategy)
        # The graphs are ours, and a graph must not hold a kernel that a later compilation would replace.
        self.config.cuda_graph_strategy = library.CudaGraphStrategy.DISABLED
        self.config.dynamic_shapes_kernel_specialization_strategy = (
            library.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        self._cache = self.config.create_runtime_cache()
        self.used = False
        self._kept: bytes | None = None
        if path.is_file():
            content = path.read_bytes()
            # TensorRT-RTX checks the blob against GPU, driver and version itself.
            if self._cache.deserialize(content):
                self._kept = content
            else:
                log.info("%s does not fit this GPU or version; compiling anew", path)
        self.config.set_runtime_cache(self._cache)

    @classmethod
    def of(cls, library: ModuleType, engine: Any, file: bytes, capability: tuple[int, int]) -> JitCache | None:
        """Return the cache of an engine `file` on a GPU; None for a library that compiles nothing at run time."""
        if not hasattr(library, "IRuntimeCache"):
            return None
        digest = hashlib.sha256(f"{library_version(library)}\0{capability}\0".encode() + file).hexdigest()
        return cls(library, engine, cache_directory("tensorrt-rtx") / f"{digest[:32]}.cache")

    def keep(self) -> None:
        """Write the cache when something was compiled since it was last written."""
        if not self.used:
            return
        self.used = False
        content = bytes(self._cache.serialize())
        if content != self._kept:
            self._kept = content
            keep(self.path, content)
