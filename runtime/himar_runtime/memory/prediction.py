"""Predicts the memory that a bundle's engines and a run of them take, from what its build measured.

The manifest's optional key `memory` holds, by component, what one engine added to the resident memory of a process on
a CPU: once loaded, and after runs of some batches at the largest sizes of all other axes. ONNX Runtime never gives
back what a session's runs took, so engines add up. Between and beyond the measured batches it is a straight line.

Its key `gpu`, where the build had one, holds the same of a GPU's memory, for one backend, and what its libraries take
beside the engines, once. There all lanes queue the runs of an ONNX Runtime session on one stream, one after another,
and the TensorRT engines of a lane share the memory of the largest.

runtime/cpp/src/memory has the same arithmetic.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from himar_kernels import BundleError

from ..bundle.manifest import Manifest, Reader
from ..families.family import runtime_family

KEY, GPU = "memory", "gpu"
"""Of the manifest, and in it what was measured on a GPU. Runtimes that do not know them ignore them."""

_ORT = "onnxruntime"


@dataclass(frozen=True)
class Measured:
    """What a build found of a component: bytes once loaded, and what runs of `images` images added, in bytes.

    images: rising; runs: one for each. most: images of the largest call, beyond which a run takes no more.
    """

    loaded: int
    images: tuple[int, ...]
    runs: tuple[int, ...]
    most: int

    def run(self, images: int) -> int:
        """Return the bytes that runs of so many images add, never less than those of fewer."""
        count = min(images, self.most)
        if len(self.images) == 1:
            return self.runs[0] * count // self.images[0]
        (first, last), (low, high) = self.images[-2:], self.runs[-2:]
        return max(low if count >= first else 0, low + (high - low) * (count - first) // (last - first))


@dataclass(frozen=True)
class Figures:
    """What a build measured on one kind of device, by component.

    by: what ran the engines, in words; backend: its name. once: bytes that its libraries take beside the engines.
    """

    by: str = ""
    backend: str = ""
    once: int = 0
    components: Mapping[str, Measured] = field(default_factory=dict)


@dataclass(frozen=True)
class ComponentMemory:
    """Bytes that one component takes.

    weights: of its graph or engine, as they stand in the bundle. loaded: what holding it ready takes, weights
    included. run: what its runs take besides, in one lane; None where nothing is known of it. deferred: it is loaded
    by the first request that needs it, which those of the default setting do not, and is in no total. backend: what
    runs it.
    """

    name: str
    backend: str
    weights: int
    loaded: int
    run: int | None
    deferred: bool


@dataclass(frozen=True)
class Prediction:
    """Bytes that `lanes` lanes take which run `images` images at once.

    device: kind of device. buffers: of one lane's loop on a GPU, 0 on a CPU. once: of a GPU's libraries, beside the
    engines. source: where the figures come from, in words.
    """

    components: tuple[ComponentMemory, ...]
    images: int
    lanes: int
    device: str
    buffers: int
    once: int
    source: str

    @property
    def loaded(self) -> int:
        """Of all engines that are loaded at once, and of libraries; lanes share them."""
        return self.once + sum(each.loaded for each in self.components if not each.deferred)

    @property
    def runs(self) -> int:
        """Of the runs of all lanes."""
        runs = [(each.backend, each.run or 0) for each in self.components if not each.deferred]
        sessions = sum(run for backend, run in runs if backend == _ORT)
        shared = max((run for backend, run in runs if backend != _ORT), default=0)
        at_once = 1 if self.device == "cuda" else self.lanes
        return at_once * sessions + self.lanes * (shared + self.buffers)

    @property
    def total(self) -> int:
        """Of everything, the process itself and its libraries left out."""
        return self.loaded + self.runs


def predict(manifest: Manifest, images: int, lanes: int = 1, device: str = "cpu", backend: str = "") -> Prediction:
    """Predict what a bundle takes.

    Args:
        images: that one run takes at once, at least 1; more than the bundle's max_batch are run in parts.
        device: kind of device, "cpu" or "cuda". Of a bundle that was built without a GPU, the weights as they stand in
            the bundle and the loop's own buffers are counted there; what runs take besides is not known, a CPU's
            figures would be too large.
        backend: what runs the engines; "" is what the bundle was built for.

    Raises BundleError where the manifest's figures are not what they must be.
    """
    images = min(images, manifest.max_batch)
    figures = measured(manifest, device)
    family = runtime_family(manifest.family)
    late = set(manifest.model.deferred) - {*family.first_needed(manifest)}
    components = []
    for name, spec in manifest.components.items():
        runner = backend or spec.backend
        weights = _weights(manifest, name, runner)
        own = figures.components.get(name) if runner == figures.backend else None
        loaded, run = (weights, None) if own is None else (own.loaded, own.run(images))
        components.append(ComponentMemory(name, runner, weights, loaded, run, name in late))
    buffers = family.resident_bytes(manifest) if device == "cuda" else 0
    known = any(each.run is not None for each in components)
    source = "weights as they stand in the bundle; of runs there are no figures"
    if known:
        source = f"measured when the bundle was built, by {figures.by}"
    return Prediction(tuple(components), images, lanes, device, buffers, figures.once if known else 0, source)


def measured(manifest: Manifest, device: str) -> Figures:
    """Return what the build measured on a kind of device; nothing where it did not. BundleError for wrong figures."""
    if KEY not in manifest.raw:
        return Figures()
    reader = Reader(manifest.raw, "the manifest", "").reader(KEY)
    if device == "cuda":
        if GPU not in reader.values:
            return Figures()
        reader = reader.reader(GPU)
    once = reader.get("once", int) if device == "cuda" else 0
    if once < 0:
        raise BundleError(f"{reader.source}: {reader.path}.once is {once}; it must be at least 0.")
    return Figures(
        by=str(reader.values.get("by", "an unnamed engine")),
        backend=reader.get("backend", str) if device == "cuda" else _ORT,
        once=once,
        components={name: _measured(entry) for name, entry in reader.reader("components").readers()},
    )


def _measured(reader: Reader) -> Measured:
    loaded, most = reader.get("loaded", int), reader.positive("most")
    images, runs = (tuple(reader.get(key, list)) for key in ("images", "runs"))
    whole = all(type(value) is int and value >= 0 for value in (loaded, *images, *runs))
    if not whole or not images or len(images) != len(runs) or list(images) != sorted({*images}) or images[0] < 1:
        shown = json.dumps(reader.values, separators=(",", ":"))
        raise BundleError(
            f"{reader.source}: {reader.path} is {shown}; it must give bytes once loaded, and those of "
            f"runs of rising numbers of images; build the bundle again."
        )
    return Measured(loaded, images, runs, most)


def _weights(manifest: Manifest, name: str, backend: str) -> int:
    """Return the bytes of an engine's file, or of a graph's weights, whose file does not say which are whose."""
    spec = manifest.components[name]
    if backend != _ORT or spec.weight_bytes is None:
        return manifest.files[spec.engine_file].bytes
    return spec.weight_bytes
