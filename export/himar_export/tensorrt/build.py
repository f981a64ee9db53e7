"""Builds one engine: a typed network and the user's options in, serialized bytes and their precisions out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from himar_kernels import BuildError
from himar_runtime.engines.tensorrt.library import collected_errors, first_error, library_logger

from ..graph.precision_choice import Precision
from ..make.engine_cache import TimingCache
from .network import ParsedNetwork, add_profile, parse_network
from .options import EngineOptions, compute_capabilities
from .precision import PrecisionTable, require_precision, typed_network_table

if TYPE_CHECKING:
    from ..graph.component import Component  # imports PyTorch, which a child that builds engines does without

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuiltEngine:
    """data: the serialized engine. table: what its operations run in, from the network that it was built from."""

    data: bytes
    table: PrecisionTable


def build_engine(
    library: ModuleType,
    file: Path,
    component: Component,
    precision: Precision,
    options: EngineOptions,
    timing: TimingCache | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
) -> BuiltEngine:
    """Build the engine of a component from its ONNX file and prove its precision.

    timing: measured kernels of earlier builds, read and written (full TensorRT; TensorRT-RTX measures none).
    Raises BuildError with TensorRT's reason; a cancelled build raises what cancelled it.
    """
    parsed = parse_network(library, file)
    require_precision(parsed, component, precision)
    config, keep = _configure(parsed, component, options, timing)
    monitor = make_monitor(library)
    config.progress_monitor = monitor
    with collected_errors(library) as errors:
        plan = run_watched(lambda: parsed.builder.build_serialized_network(parsed.network, config), monitor, progress)
    if plan is None:
        raise BuildError(
            f"{library.__name__} {library.__version__} cannot build {component.name} in {precision}: "
            f"{first_error(errors)}"
        )
    data = bytes(plan)
    if timing is not None and keep is not None:
        timing.store(bytes(config.get_timing_cache().serialize()))
    return BuiltEngine(data, typed_network_table(parsed, precision))


def unfit_here(library: ModuleType, data: bytes) -> str | None:
    """Return why an engine does not fit this machine's GPU and driver, in TensorRT-RTX's words; None if it does.

    Full TensorRT builds for the GPU it runs on and has no such question: None.
    """
    if not hasattr(library.Runtime, "get_engine_validity"):
        return None
    with collected_errors(library) as errors:
        validity, found = library.Runtime(library_logger(library)).get_engine_validity(data)
    if validity != library.EngineValidity.INVALID:
        return None
    names = [name for name, flag in library.EngineInvalidityDiagnostics.__members__.items() if int(found) & flag.value]
    return ", ".join(names) or first_error(errors)


def _configure(
    parsed: ParsedNetwork, component: Component, options: EngineOptions, timing: TimingCache | None
) -> tuple[Any, Any]:
    """Return the builder's configuration, and the timing cache that must live until the engine is built."""
    library = parsed.library
    config = parsed.builder.create_builder_config()
    # float32 must mean float32: TF32 matmuls would miss the model's numbers by a thousand times more.
    config.clear_flag(library.BuilderFlag.TF32)
    config.builder_optimization_level = options.optimization_level
    # What the inspector needs to name types; it costs nothing when the engine runs.
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    # TensorRT-RTX: without it a run may allocate, which no graph can record.
    user_allocation = getattr(library.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
    if user_allocation is not None:
        config.set_flag(user_allocation)
    if options.workspace is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, options.workspace)
    if options.version_compatible:
        # The engine then holds a copy of the lean runtime, which later versions run it with.
        config.set_flag(library.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = library.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.refittable:
        _mark_refittable(parsed, config)
    if options.gpus:
        config.num_compute_capabilities = len(options.gpus)
        for index, capability in enumerate(compute_capabilities(options, library)):
            if not config.set_compute_capability(capability, index):
                raise BuildError(f"{library.__name__} refuses to build for {options.gpus[index]}.")
    add_profile(parsed, config, component.inputs, component.profile)
    return config, None if timing is None else _use_timing(library, config, timing)


def _mark_refittable(parsed: ParsedNetwork, config: Any) -> None:
    """Let every weight be replaced, and no constant of a shape or a scale: those belong to the graph's structure."""
    config.set_flag(parsed.library.BuilderFlag.REFIT_INDIVIDUAL)
    for name in (tensor.name for tensor in parsed.graph.graph.initializer if is_weight(tensor.name)):
        if not parsed.network.mark_weights_refittable(name):
            raise BuildError(
                f"{parsed.library.__name__} cannot make the weight {name} replaceable; please report this."
            )


def is_weight(name: str) -> bool:
    """Return whether an initializer is a weight; the exporter names constants of the graph itself val_…."""
    return not name.startswith("val_")


def _use_timing(library: ModuleType, config: Any, timing: TimingCache) -> Any:
    config.set_flag(library.BuilderFlag.EDITABLE_TIMING_CACHE)
    for stored in (timing.load(), b""):
        cache = config.create_timing_cache(stored)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
        log.warning("the timing cache %s is not one of this TensorRT and GPU; starting a new one", timing.path)
    raise BuildError(f"{library.__name__} refuses a new timing cache; please report this.")


_T = TypeVar("_T")
_POLL_SECONDS = 0.1


class BuildMonitor(Protocol):
    """Follows one build; its methods may be called from any thread."""

    def fraction(self) -> float:
        """Return how much of the build is done, 0 to 1."""
        ...

    def cancel(self) -> None:
        """Make the build end at its next step."""
        ...


@dataclass
class _Phases:
    """Phases of a build under way, outermost first: each inner one is a part of one step of the outer."""

    active: dict[str, tuple[int, int]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    cancelled: bool = False
    furthest: float = 0.0

    def fraction(self) -> float:
        with self.lock:
            done, share = 0.0, 1.0
            for steps_done, steps in self.active.values():
                done += share * min(steps_done, steps) / steps
                share /= steps
            self.furthest = max(self.furthest, min(done, 1.0))
            return self.furthest


def make_monitor(library: ModuleType) -> Any:
    """Return a monitor: an IProgressMonitor of the library that is a BuildMonitor too."""

    class Monitor(library.IProgressMonitor):  # type: ignore[name-defined]
        """Called by TensorRT, from any of its threads."""

        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self._phases = _Phases()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """A phase begins inside its parent."""
            with self._phases.lock:
                self._phases.active[phase_name] = (0, max(num_steps, 1))

        def step_complete(self, phase_name: str, step: int) -> bool:
            """A step of a phase is done; the answer says whether to continue."""
            with self._phases.lock:
                if phase_name in self._phases.active:
                    self._phases.active[phase_name] = (step + 1, self._phases.active[phase_name][1])
                return not self._phases.cancelled

        def phase_finish(self, phase_name: str) -> None:
            """A phase is over, also one that was cancelled."""
            with self._phases.lock:
                self._phases.active.pop(phase_name, None)

        def fraction(self) -> float:
            """See BuildMonitor."""
            return self._phases.fraction()

        def cancel(self) -> None:
            """See BuildMonitor."""
            with self._phases.lock:
                self._phases.cancelled = True

    return Monitor()


def run_watched(work: Callable[[], _T], monitor: BuildMonitor, progress: Callable[[float], None]) -> _T:
    """Run `work` in another thread and report its progress from this one.

    TensorRT cannot be interrupted from Python, but asks its monitor at every step. So whatever ends the waiting here,
    Ctrl-C or an exception of `progress`, cancels the build, waits for it to end, and is raised on.
    """
    outcome: list[_T] = []
    failure: list[BaseException] = []
    ended = threading.Event()  # Thread.join, once interrupted, takes a running thread for a finished one (Python 3.11)

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            failure.append(error)
        finally:
            ended.set()

    threading.Thread(target=run, name="himar-engine-builder").start()
    try:
        while not ended.wait(_POLL_SECONDS):
            progress(monitor.fraction())
    except BaseException:
        monitor.cancel()
        ended.wait()
        raise
    if failure:
        raise failure[0]
    progress(1.0)
    return outcome[0]
