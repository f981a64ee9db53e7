"""Keeps built engines and finds them again by everything that went into them.

    DIR/<key>/engine        the serialized engine
    DIR/<key>/entry.json    its sha256, its precisions, what it was built from
    DIR/timing/<key>        TensorRT's measured kernels, one per builder version and GPU

An entry is a folder that appears in one move, so a reader sees a whole entry or none, also with several writers.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from himar_kernels import BuildError
from himar_kernels.shared.files import new_folder
from himar_runtime.cache import keep

from ..graph.precision_choice import Precision
from ..tensorrt.options import EngineOptions
from .gpu import Gpu

if TYPE_CHECKING:
    from ..graph.component import Component

log = logging.getLogger(__name__)

RECIPE = 2
"""Raised when this package changes what it makes of a graph: an engine of another recipe is not the same engine."""


@dataclass(frozen=True)
class EngineCache:
    """A folder of engines."""

    root: Path

    def load(self, key: str) -> tuple[bytes, dict[str, Any]] | None:
        """Return an entry's engine and facts; None when there is none or it is damaged, which is logged."""
        folder = self._folder(key)
        if not folder.is_dir():
            return None
        try:
            facts = json.loads((folder / "entry.json").read_text(encoding="utf-8"))
            data = (folder / "engine").read_bytes()
            if hashlib.sha256(data).hexdigest() == facts["sha256"]:
                return data, facts
            reason = "its engine does not have the sha256 that was stored with it"
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
        log.warning("the cached engine %s is damaged (%s); building it again", folder, reason)
        shutil.rmtree(folder, ignore_errors=True)
        return None

    def store(self, key: str, data: bytes, facts: Mapping[str, Any]) -> None:
        """Add an entry. What cannot be written is logged and left out: the engine itself is built."""
        folder = self._folder(key)
        entry = {**facts, "sha256": hashlib.sha256(data).hexdigest()}
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with new_folder(folder, BuildError) as unfinished:
                (unfinished / "engine").write_bytes(data)
                (unfinished / "entry.json").write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
        except (OSError, BuildError) as error:
            if not folder.is_dir():  # otherwise another writer was faster, with an engine of the same key
                log.warning("the engine cache %s cannot be written to, continuing without it: %s", self.root, error)

    def timing(self, version: str, gpu: Gpu) -> TimingCache:
        """Return the timing cache of a builder version on a GPU."""
        return TimingCache(self.root / "timing" / _digest({"version": version, "gpu": asdict(gpu)}))

    def _folder(self, key: str) -> Path:
        return self.root / key


@dataclass(frozen=True)
class TimingCache:
    """TensorRT's measured kernels in a file; TensorRT checks itself that they are of this version and GPU."""

    path: Path

    def load(self) -> bytes:
        """Return what is stored, or nothing."""
        try:
            return self.path.read_bytes()
        except OSError:
            return b""

    def store(self, data: bytes) -> None:
        """Replace what is stored, in one move."""
        keep(self.path, data)


def engine_key(
    file: Path,
    component: Component,
    precision: Precision,
    options: EngineOptions,
    builder: str,
    version: str,
    gpu: Gpu | None,
) -> str:
    """Return the key of an engine: sha256 over its graph with weights, precision, profile, options, builder, GPU.

    gpu: the GPU that the builder measures on; None for a builder that needs none (its targets are in the options).
    """
    return _digest(
        {
            "recipe": RECIPE,
            "graph": graph_hash(file),
            "precision": precision,
            "profile": {axis: list(sizes) for axis, sizes in component.profile.items()},
            "options": asdict(options),
            "builder": builder,
            "version": version,
            "gpu": None if gpu is None else asdict(gpu),
        }
    )


def graph_hash(file: Path) -> str:
    """Hash an ONNX graph and the bytes of its weights, wherever in the weights file they lie."""
    model = onnx.load(file, load_external_data=False)
    weights = hashlib.sha256()
    for tensor in model.graph.initializer:
        data = external_bytes(tensor, file.parent)
        weights.update(hashlib.sha256(data).digest())
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            del tensor.external_data[:]
    weights.update(model.SerializeToString(deterministic=True))
    return weights.hexdigest()


def external_bytes(tensor: onnx.TensorProto, folder: Path) -> bytes:
    """Return a tensor's bytes from its external file; its proto's own for one that is stored inside."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return bytes(tensor.SerializeToString(deterministic=True))
    place = {entry.key: entry.value for entry in tensor.external_data}
    with (folder / place["location"]).open("rb") as stream:
        stream.seek(int(place.get("offset", 0)))
        return stream.read(int(place["length"]))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
