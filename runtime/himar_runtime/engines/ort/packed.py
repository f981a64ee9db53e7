"""Keeps graphs as ONNX Runtime optimised them, their weights packed for this CPU, in files that processes share.

    DIR/<key>/graph.onnx    the optimised graph
    DIR/<key>/weights.bin   its weights, and once more, packed, those that its kernels want in another order
    DIR/<key>/entry.json    what tells a whole entry from a damaged one

A session of the bundle's own graph packs its weights into memory of its own, at every start and in every process. A
session of a kept graph maps the packed ones: it reads what it uses, and the system keeps one copy for all processes. An
entry stands under a name made of everything it depends on. The C++ runtime (runtime/cpp/src/engines/ort/packed.cpp)
makes and uses the same entries.

Nothing here is needed to run a bundle: whatever goes wrong is logged, and the bundle's own graph is loaded instead.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from himar_kernels import BundleError, EngineError, InputError
from himar_kernels.shared.files import file_sha256, new_folder, remove_unfinished

from ...bundle.bundle import Bundle
from ...cache import cache_directory
from ..engine import first_line
from .entries import ENTRY, making, remove_oldest, use

log = logging.getLogger(__name__)

VARIABLE = "HIMAR_ORT_PACKED"
"""1: graphs with packed weights are kept and used. They take twice the disk of a bundle's weights and more."""

LIMIT_VARIABLE = "HIMAR_ORT_PACKED_GIB"
"""What all entries may take on the disk, in GiB; DEFAULT_GIB where it is not set."""

DEFAULT_GIB = 32

RECIPE = 2
"""Raised when this file changes what it keeps of a graph."""

DISK_PER_WEIGHT = 3
"""Free bytes of the disk, per byte of a network's weights, below which nothing is kept; two of them are written."""

LEAST_VERSION = (1, 21)
"""Of ONNX Runtime: the first that writes packed weights."""

_GRAPH, _WEIGHTS = "graph.onnx", "weights.bin"
_LEAST_EXTERNAL = "1024"
_CPU_FIELDS = frozenset(
    ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")
    + ("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features")
)

Load = Callable[[Path, Any], Any]
"""Makes a session of a graph's path and options."""


def keeps_packed() -> bool:
    """Return whether packed graphs are asked for; InputError where a variable is not what it may be."""
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "0", "1"):
        raise InputError(f"{VARIABLE} is {value!r}; it must be 1 to keep graphs with packed weights, or 0.")
    limit()
    return value == "1"


def limit() -> int:
    """Return the bytes that all entries may take; InputError where the variable is not a number of GiB."""
    value = os.environ.get(LIMIT_VARIABLE) or str(DEFAULT_GIB)
    if re.fullmatch("[0-9]{1,6}", value) is None:
        raise InputError(
            f"{LIMIT_VARIABLE} is {value!r}; it must be a whole number from 0 to 999999, the GiB of disk that graphs "
            f"with packed weights may take."
        )
    return int(value) << 30


def packed_directory() -> Path:
    """Return the folder of all entries."""
    return cache_directory("onnxruntime")


@dataclass(frozen=True)
class Content:
    """What a graph of a bundle is made of.

    Attributes:
        hashes: of the graph and of all files that its weights may be in; None where the graph has none.
        check: compares them with the files, which is due before the graph is loaded; BundleError where one differs.
    """

    hashes: tuple[str, ...] | None
    check: Callable[[], None]


def contents(bundle: Bundle, file: str) -> Content:
    """Return what a graph of a bundle is made of: itself and every file but other graphs, engines and the self-test."""
    manifest = bundle.manifest
    apart = {manifest.selftest, file}
    for spec in manifest.components.values():
        apart |= {spec.file, spec.engine_file}
    names = sorted(manifest.files.keys() - apart)
    check = functools.partial(bundle.check, (file, *names))
    if file not in manifest.files:
        return Content(None, check)
    others = (f"{name} {manifest.files[name].sha256}" for name in names)
    return Content((manifest.files[file].sha256, *others), check)


@functools.cache
def cpu() -> str | None:
    """Return what a layout of packed weights may depend on of this machine's CPUs; None where that is not known."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().decode("utf-8", "replace").split("\n")
    except OSError:
        return None
    fields = {tuple(part.strip(" \t") for part in line.split(":", 1)) for line in lines if ":" in line}
    known = sorted(" ".join(field) for field in fields if field[0] in _CPU_FIELDS)
    return "\n".join((platform.machine(), *known)) if known else None


def key(ort: ModuleType, hashes: tuple[str, ...], machine: str) -> str:
    """Return the name of an entry: of a graph and its weights, ONNX Runtime's build, the CPU and this recipe."""
    parts = (str(RECIPE), *hashes, ort.__version__, ort.get_build_info(), machine)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class PackedGraph:
    """One entry, which may not be there yet."""

    folder: Path

    @classmethod
    def of(cls, ort: ModuleType, content: Content) -> PackedGraph | None:
        """Return the entry of a graph on this machine; None for one without a hash, and, logged, where none can be."""
        if content.hashes is None:
            return None
        machine, version = cpu(), tuple(int(part) for part in re.findall("[0-9]+", ort.__version__)[:2])
        if version < LEAST_VERSION:
            _say_once(
                f"weights are not kept packed: {VARIABLE} needs ONNX Runtime "
                f"{'.'.join(map(str, LEAST_VERSION))} or later, and this is {ort.__version__}"
            )
            return None
        if machine is None:
            _say_once("weights are not kept packed: this system does not tell what its CPU can do")
            return None
        return cls(packed_directory() / key(ort, content.hashes, machine))

    def session(
        self,
        ort: ModuleType,
        path: Path,
        options: Callable[[], Any],
        load: Load,
        weights: int | None,
        check: Callable[[], None],
    ) -> Any:
        """Return a session of the entry, which is made first if need be; None where there can be none, with a warning.

        path: the bundle's graph, read only to make an entry, after `check`, whose BundleError comes out. options: makes
        the session's options. weights: bytes of the graph's, if known.
        """
        held = None
        try:
            held = self._use()
            if held is None:
                with making(self.folder):
                    held = self._use(warns=True)
                    if held is None:  # no other process was faster
                        self._pack(path, options(), load, weights, check)
                        held = self._use(warns=True)
                remove_oldest(self.folder.parent, limit())
            if held is None:
                raise EngineError("what was just packed is not whole")
            mapped = options()
            mapped.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # all of it was done
            session = load(self.folder / _GRAPH, mapped)
            weakref.finalize(session, os.close, held).atexit = False  # a process's end closes it by itself
            return session
        except BundleError:
            raise
        except Exception as error:  # ONNX Runtime's errors have no type in common
            if held is not None:
                os.close(held)
            log.warning(
                "%s cannot be kept packed in %s, loading it without: %s", path.name, self.folder, first_line(error)
            )
            return None

    def bytes(self) -> int | None:
        """Return the size of a whole entry; None where there is none, or where it is damaged."""
        try:
            return self._checked()
        except _DAMAGE:
            return None

    def _use(self, warns: bool = False) -> int | None:
        """Return what keeps a whole entry in use; None where there is none, or where it is damaged: warns then."""
        held = use(self.folder)
        try:
            self._checked()
            return held
        except _DAMAGE as error:
            if held is not None:
                os.close(held)
            if warns and self.folder.is_dir():
                log.warning("%s is damaged (%s); packing again", self.folder, error)
            return None

    def _checked(self) -> int:
        """Return the size of a whole entry; one of _DAMAGE where it is not whole.

        The weights are read only where their time of change is not the one that was noted: reading them all would take
        most of the time that they save.
        """
        entry = json.loads((self.folder / ENTRY).read_bytes())
        graph, weights = self.folder / _GRAPH, self.folder / _WEIGHTS
        facts = weights.stat()
        if facts.st_size != entry["bytes"]:
            raise ValueError(f"{_WEIGHTS} has {facts.st_size} bytes, not {entry['bytes']}")
        if file_sha256(graph, BundleError) != entry["graph"]:
            raise ValueError(f"{_GRAPH} does not have the sha256 that was stored with it")
        if facts.st_mtime_ns != entry["changed"] and file_sha256(weights, BundleError) != entry["weights"]:
            raise ValueError(f"{_WEIGHTS} does not have the sha256 that was stored with it")
        return facts.st_size + graph.stat().st_size

    def _pack(self, path: Path, options: Any, load: Load, weights: int | None, check: Callable[[], None]) -> None:
        """Write the entry; the caller holds its lock."""
        check()
        shutil.rmtree(self.folder, ignore_errors=True)  # a damaged one
        remove_unfinished(self.folder)
        needed = DISK_PER_WEIGHT * (weights or 0)
        remove_oldest(self.folder.parent, max(0, limit() - needed))
        free = shutil.disk_usage(self.folder.parent).free
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
            (unfinished / ENTRY).write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
        size = (self.folder / _WEIGHTS).stat().st_size
        log.info(
            "packed %s for this CPU in %.1f s: %d bytes in %s",
            path.name,
            time.perf_counter() - start,
            size,
            self.folder,
        )


_DAMAGE = (OSError, BundleError, ValueError, KeyError, TypeError)
"""What a missing entry, or a damaged one, raises when it is checked."""


@functools.cache
def _say_once(text: str) -> None:
    log.warning(text)


def packed_bytes(bundle: Bundle, ort: ModuleType) -> dict[str, int]:
    """Return the bytes that are kept, packed for this CPU, of each component of a bundle that is there as a whole."""
    found = {}
    for name, spec in bundle.manifest.components.items():
        file = spec.engine_file if spec.backend == "onnxruntime" else spec.file
        graph = PackedGraph.of(ort, contents(bundle, file))
        size = None if graph is None else graph.bytes()
        if size is not None:
            found[name] = size
    return found
