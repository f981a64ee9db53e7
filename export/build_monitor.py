"""Watching a TensorRT build from Python: how far it is, and stopping it on Ctrl-C."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Protocol, TypeVar

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
            """A step of a phase is done; the answer says whether to go on."""
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
