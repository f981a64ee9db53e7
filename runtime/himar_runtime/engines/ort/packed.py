"""Keeps graphs as ONNX Runtime optimised them, their weights packed for this CPU, in files that processes share.

    DIR/<key>/graph.onnx    the optimised graph
    DIR/<key>/weights.bin   its weights, and once more, packed, those that its kernels want in another order
    DIR/<key>/entry.json    what tells a whole entry from a damaged one
    DIR/<key>.lock          held by the process that packs

A session of the bundle's own graph packs its weights into memory of its own, at every start and in every process. A
session of a kept graph maps the packed ones: it reads what it uses, and the system keeps one copy for all processes. An
entry is a folder that appears in one move, under a name made of everything that it depends on.

Nothing here is needed to run a bundle: whatever goes wrong is logged, and the bundle's own graph is loaded instead.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from himar_kernels import BundleError, EngineError, InputError
from himar_kernels.shared.files import file_sha256, new_folder, remove_unfinished

from ...bundle.bundle import Bundle
from ...cache import cache_directory

log = logging.getLogger(__name__)

VARIABLE = "HIMAR_ORT_PACKED"
"""1: graphs with packed weights are kept and used. They take twice the disk of a bundle's weights and more."""

RECIPE = 1
"""Raised when this file changes what it keeps of a graph."""

WAIT_SECONDS = 300
"""How long a process waits for another that packs the same graph."""

DISK_PER_WEIGHT = 3
"""Free bytes of the disk, per byte of a network's weights, below which nothing is kept; two of them are written."""

_GRAPH, _WEIGHTS, _ENTRY = "graph.onnx", "weights.bin", "entry.json"
_LEAST_EXTERNAL = "1024"
_CPU_FIELDS = frozenset(
    ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")
    + ("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features")
)

Load = Callable[[Path, Any], Any]
"""Makes a session of a graph's path and options."""


def keeps_packed() -> bool:
    """Return whether packed graphs are asked for; InputError where the variable is anything but 0, 1 or empty."""
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "0", "1"):
        raise InputError(f"{VARIABLE} is {value!r}; it must be 1 to keep graphs with packed weights, or 0.")
    return value == "1"


def packed_directory() -> Path:
    """Return the folder of all entries."""
    return cache_directory("onnxruntime")


def contents(bundle: Bundle, file: str) -> tuple[str, ...] | None:
    """Return the hashes of a graph of a bundle and of all files that its weights may be in; None if it has no hash."""
    files, manifest = bundle.manifest.files, bundle.manifest
    if file not in files:
        return None
    others = {name: entry for name, entry in files.items() if not name.endswith((".onnx", ".npz"))}
    return (files[file].sha256, *(f"{name} {entry.sha256}" for name, entry in sorted(others.items())), manifest.family)


@functools.cache
def cpu() -> str | None:
    """Return what a layout of packed weights may depend on of this machine's CPUs; None where that is not known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    fields = {tuple(part.strip() for part in line.split(":", 1)) for line in lines if ":" in line}
    known = sorted(" ".join(field) for field in fields if field[0] in _CPU_FIELDS)
    return "\n".join((platform.machine(), *known)) if known else None


def key(ort: ModuleType, content: tuple[str, ...], machine: str) -> str:
    """Return the name of an entry: of a graph and its weights, ONNX Runtime's build, the CPU and this recipe."""
    parts = (RECIPE, content, ort.__version__, ort.get_build_info(), machine)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class PackedGraph:
    """One entry, which may not be there yet."""

    folder: Path

    @classmethod
    def of(cls, ort: ModuleType, content: tuple[str, ...]) -> PackedGraph | None:
        """Return the entry of a graph on this machine; None where its CPU is not known."""
        machine = cpu()
        if machine is None:
            log.info("weights are not kept packed: this system does not tell what its CPU can do")
            return None
        return cls(packed_directory() / key(ort, content, machine))

    def session(self, ort: ModuleType, path: Path, options: Callable[[], Any], load: Load, weights: int | None) -> Any:
        """Return a session of the entry, which is made first if need be; None where there can be none, with a warning.

        path: the bundle's graph. options: makes the session's options. weights: bytes of the graph's, if known.
        """
        try:
            if self.bytes() is None:
                with self._lock():
                    if self.bytes() is None:  # no other process was faster
                        self._pack(path, options(), load, weights)
            mapped = options()
            mapped.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # all of it was done
            return load(self.folder / _GRAPH, mapped)
        except Exception as error:  # ONNX Runtime's errors have no type in common
            log.warning("%s cannot be kept packed in %s, loading it without: %s", path.name, self.folder, error)
            return None

    def bytes(self) -> int | None:
        """Return the size of a whole entry; None where there is none, or where it is damaged, which is logged.

        The weights are read only where their time of change is not the one that was noted: reading them all would take
        most of the time that they save.
        """
        try:
            entry = json.loads((self.folder / _ENTRY).read_bytes())
            graph, weights = self.folder / _GRAPH, self.folder / _WEIGHTS
            facts = weights.stat()
            if facts.st_size != entry["bytes"]:
                raise ValueError(f"{_WEIGHTS} has {facts.st_size} bytes, not {entry['bytes']}")
            if file_sha256(graph, BundleError) != entry["graph"]:
                raise ValueError(f"{_GRAPH} does not have the sha256 that was stored with it")
            if facts.st_mtime_ns != entry["changed"] and file_sha256(weights, BundleError) != entry["weights"]:
                raise ValueError(f"{_WEIGHTS} does not have the sha256 that was stored with it")
            return facts.st_size + graph.stat().st_size
        except (OSError, BundleError, ValueError, KeyError, TypeError) as error:
            if self.folder.is_dir():
                log.warning("%s is damaged (%s); packing again", self.folder, error)
            return None

    def _pack(self, path: Path, options: Any, load: Load, weights: int | None) -> None:
        """Write the entry; the caller holds its lock."""
        shutil.rmtree(self.folder, ignore_errors=True)  # a damaged one
        remove_unfinished(self.folder)
        free, needed = shutil.disk_usage(self.folder.parent).free, DISK_PER_WEIGHT * (weights or 0)
        if free < needed:
            raise EngineError(f"the disk has {free} bytes free, and {needed} are wanted")
        start = time.perf_counter()
        with new_folder(self.folder, EngineError) as unfinished:
            options.optimized_model_filepath = str(unfinished / _GRAPH)
            for name, value in (
                ("optimized_model_external_initializers_file_name", _WEIGHTS),
                ("optimized_model_external_initializers_min_size_in_bytes", _LEAST_EXTERNAL),
                ("save_external_prepacked_constant_initializers", "1"),
            ):
                options.add_session_config_entry(f"session.{name}", value)
            load(path, options)
            kept = unfinished / _WEIGHTS
            kept.touch()  # ONNX Runtime writes none where every weight is small
            entry = {
                "graph": file_sha256(unfinished / _GRAPH, EngineError),
                "weights": file_sha256(kept, EngineError),
                "bytes": kept.stat().st_size,
                "changed": kept.stat().st_mtime_ns,
            }
            (unfinished / _ENTRY).write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
        log.info("packed %s for this CPU in %s in %.1f s", path.name, self.folder, time.perf_counter() - start)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the entry's lock, so that processes which start together pack once and all share what one packed."""
        import fcntl  # not on every system

        self.folder.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:
            end = time.monotonic() + WAIT_SECONDS
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise
                time.sleep(0.05)
            yield
        finally:
            os.close(descriptor)


def packed_bytes(bundle: Bundle, ort: ModuleType) -> dict[str, int]:
    """Return the bytes that are kept, packed for this CPU, of each component of a bundle that is there as a whole."""
    found = {}
    for name, spec in bundle.manifest.components.items():
        file = spec.engine_file if spec.backend == "onnxruntime" else spec.file
        content = contents(bundle, file)
        graph = None if content is None else PackedGraph.of(ort, content)
        size = None if graph is None else graph.bytes()
        if size is not None:
            found[name] = size
    return found
