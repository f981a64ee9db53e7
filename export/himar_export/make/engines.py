"""Gets the engines of a bundle: every component's graph through TensorRT's builder or out of the cache."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from himar_kernels.shared.console import NOTICES
from himar_runtime.engines.tensorrt.library import BUILDS, library_version, load_builder

from ..graph.component import Component
from ..graph.precision_choice import Precision
from ..tensorrt.build import unfit_here
from ..tensorrt.inspector import inspect_engine
from ..tensorrt.options import EngineOptions, check_fp8, check_options, runs_here, target, unsupported
from ..tensorrt.process import BuilderProcess
from .engine_cache import EngineCache, engine_key
from .gpu import Gpu, find_gpu

log = logging.getLogger(__name__)

TENSORRT_BACKENDS = tuple(BUILDS)


@dataclass(frozen=True)
class EngineTarget:
    """What engines are built with and for.

    gpu: this machine's, None without one. cache: where built engines are kept; None builds every one anew. fp8: whether
    some are.
    """

    backend: str
    library: ModuleType
    options: EngineOptions
    gpu: Gpu | None
    cache: EngineCache | None
    fp8: bool = False

    @property
    def runs_here(self) -> bool:
        """Whether this machine can run the engines."""
        if self.backend == "tensorrt-rtx" and unsupported(self.library, self.gpu):
            return False
        return runs_here(self.options, self.gpu, self.fp8)

    def backend_entry(self) -> dict[str, Any]:
        """Return the manifest's `backend` (schema: himar_runtime.bundle.manifest)."""
        options = self.options
        return {
            "name": self.backend,
            "version": library_version(self.library),
            **target(options, self.backend, self.gpu, self.fp8),
            "gpu": self.gpu.name if self.gpu and self.measures else None,
            "version_compatible": options.version_compatible,
            "refittable": options.refittable,
            "optimization_level": options.optimization_level,
            "workspace": options.workspace,
        }

    @property
    def measures(self) -> bool:
        """Whether the builder measures kernels on this machine's GPU, so that its engines are that GPU's."""
        return self.backend == "tensorrt" or self.options.refittable or "current" in self.options.gpus


def prepare_target(backend: str, options: EngineOptions, cache: Path | None, fp8: bool = False) -> EngineTarget:
    """Find the builder of a backend and check what is asked of it, before anything slow happens.

    fp8: some components are asked for in it. Raises BuildError when the builder is not installed or cannot honour an
    option here.
    """
    library = load_builder(backend)
    gpu = find_gpu()
    check_options(options, backend, library, gpu)
    if fp8:
        check_fp8(options, backend, gpu)
    if backend == "tensorrt-rtx" and not options.gpus and (lack := unsupported(library, gpu)):
        NOTICES.log(logging.INFO, f"warning: these engines are for other GPUs: {lack}")
    return EngineTarget(backend, library, options, gpu, None if cache is None else EngineCache(cache), fp8)


def build_engines(
    to: EngineTarget,
    folder: Path,
    parts: Sequence[Component],
    precisions: Mapping[str, Precision],
    progress: Callable[[str, float], None],
) -> dict[str, dict[str, Any]]:
    """Write `<component>.engine` beside each `<component>.onnx` in `folder`; return the manifest's engine entries.

    An entry has `inspected` where this machine's GPU could open the engine. progress takes a text and the fraction of
    all engines. Raises BuildError as `BuilderProcess.build` does.
    """
    entries = {}
    with BuilderProcess(to.library) as builder:
        for number, component in enumerate(parts):
            precision = precisions[component.name]
            text = f"building {component.name} in {precision} with {to.backend}"

            def advance(fraction: float, text: str = text, number: int = number) -> None:
                progress(text, (number + fraction) / len(parts))

            advance(0.0)
            data, facts = _engine(to, builder, folder / f"{component.name}.onnx", component, precision, advance)
            (folder / f"{component.name}.engine").write_bytes(data)
            entries[component.name] = {"backend": to.backend, "file": f"{component.name}.engine", **facts}
    return entries


def _engine(
    to: EngineTarget,
    builder: BuilderProcess,
    file: Path,
    component: Component,
    precision: Precision,
    advance: Callable[[float], None],
) -> tuple[bytes, dict[str, Any]]:
    """Return an engine's bytes and its entry's facts: precision (two tables at most), build_seconds, cached."""
    version = library_version(to.library)
    gpu = to.gpu if to.measures else None
    # The key reads every weight, so it is made only where there is a cache to look in.
    key = engine_key(file, component, precision, to.options, to.backend, version, gpu) if to.cache else ""
    stored = to.cache.load(key) if to.cache else None
    if stored is None:
        start = time.perf_counter()
        timing = to.cache.timing(version, gpu) if to.cache and gpu and to.backend == "tensorrt" else None
        built = builder.build(file, component, precision, to.options, timing, advance)
        data, facts = built.data, {"precision": built.table.to_dict(), "build_seconds": time.perf_counter() - start}
        if to.cache:
            to.cache.store(key, data, {**facts, "component": component.name, "builder": f"{to.backend} {version}"})
    else:
        data = stored[0]
        facts = {name: stored[1][name] for name in ("precision", "build_seconds")}
        log.info("%s: reusing the engine %s", component.name, key)
    facts["cached"] = stored is not None
    # An engine that was asked for this GPU has to load on it; of the builder's own choice it need not be one.
    unfit = unfit_here(to.library, data) if to.runs_here and not to.measures else None
    if unfit is not None:
        log.warning("the engine of %s is not for this machine's GPU (%s) and is not run", component.name, unfit)
    elif to.runs_here:
        facts["inspected"] = inspect_engine(to.library, data, file, component, precision).to_dict()
    return data, facts
