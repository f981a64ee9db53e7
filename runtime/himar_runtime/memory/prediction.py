"""Predicts the memory that a bundle's engines and a run of them take, from what its build measured.

The manifest's optional key `memory` holds, by component, what one engine added to the resident memory of a process on
a CPU: once loaded, and after runs of some batches at the largest sizes of all other axes. ONNX Runtime never gives
back what a session's runs took, so engines add up. Between and beyond the measured batches it is a straight line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from himar_kernels import BundleError
from himar_kernels.families.registry import TEXT_ENCODER

from ..bundle.manifest import Manifest, Reader
from ..families.family import runtime_family

KEY = "memory"
"""Of the manifest. Runtimes that do not know it ignore it."""


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
class ComponentMemory:
    """Bytes that one component takes.

    weights: of its graph or engine, as they stand in the bundle. loaded: what holding it ready takes, weights
    included. run: what its runs take besides, in one lane; None where nothing is known of it. deferred: it is loaded
    by the first request that needs it, and is in no total.
    """

    name: str
    weights: int
    loaded: int
    run: int | None
    deferred: bool


@dataclass(frozen=True)
class Prediction:
    """Bytes that `lanes` lanes take which run `images` images at once.

    buffers: of one lane's loop on a GPU, 0 on a CPU. source: where the figures come from, in words.
    """

    components: tuple[ComponentMemory, ...]
    images: int
    lanes: int
    buffers: int
    source: str

    @property
    def loaded(self) -> int:
        """Of all engines that are loaded at once; lanes share them."""
        return sum(each.loaded for each in self.components if not each.deferred)

    @property
    def runs(self) -> int:
        """Of the runs of all lanes."""
        own = sum(each.run or 0 for each in self.components if not each.deferred)
        return self.lanes * (own + self.buffers)

    @property
    def total(self) -> int:
        """Of everything, the process itself and its libraries left out."""
        return self.loaded + self.runs


def predict(manifest: Manifest, images: int, lanes: int = 1, device: str = "cpu", backend: str = "") -> Prediction:
    """Predict what a bundle takes.

    Args:
        images: that one run takes at once, at least 1; more than the bundle's max_batch are run in parts.
        device: kind of device, "cpu" or "cuda". Of a GPU the weights as they stand in the bundle and the loop's own
            buffers are counted; what runs take besides is not known, a CPU's figures would be too large.
        backend: what runs the engines; "" is what the bundle was built for.

    Raises BundleError where the manifest's figures are not what they must be.
    """
    images = min(images, manifest.max_batch)
    found = measured(manifest)
    model = manifest.model
    components = []
    for name, spec in manifest.components.items():
        own, runner = found.get(name), backend or spec.backend
        weights = _weights(manifest, name, runner)
        known = own is not None and runner == "onnxruntime" and device == "cpu"
        loaded = own.loaded if own is not None and known else weights
        deferred = name in model.deferred and name != TEXT_ENCODER
        run = own.run(images) if own is not None and known else None
        components.append(ComponentMemory(name, weights, loaded, run, deferred))
    buffers = runtime_family(manifest.family).resident_bytes(manifest) if device == "cuda" else 0
    return Prediction(tuple(components), images, lanes, buffers, _source(manifest, components))


def measured(manifest: Manifest) -> Mapping[str, Measured]:
    """Return what the build measured, by component; empty where it did not. BundleError for figures that are wrong."""
    if KEY not in manifest.raw:
        return {}
    reader = Reader(manifest.raw, "the manifest", "").reader(KEY).reader("components")
    return {name: _measured(entry) for name, entry in reader.readers()}


def _measured(reader: Reader) -> Measured:
    loaded, most = reader.get("loaded", int), reader.positive("most")
    images, runs = (tuple(reader.get(key, list)) for key in ("images", "runs"))
    whole = all(type(value) is int and value >= 0 for value in (loaded, *images, *runs))
    if not whole or not images or len(images) != len(runs) or list(images) != sorted({*images}) or images[0] < 1:
        raise BundleError(
            f"{reader.source}: {reader.path} is {dict(reader.values)!r}; it must give bytes once loaded, and those of "
            f"runs of rising numbers of images; build the bundle again."
        )
    return Measured(loaded, images, runs, most)


def _weights(manifest: Manifest, name: str, backend: str) -> int:
    """Return the bytes of an engine's file, or of a graph's weights, whose file does not say which are whose."""
    spec = manifest.components[name]
    if backend != "onnxruntime" or spec.weight_bytes is None:
        return manifest.files[spec.engine_file].bytes
    return spec.weight_bytes


def _source(manifest: Manifest, components: list[ComponentMemory]) -> str:
    if all(each.run is None for each in components):
        return "weights as they stand in the bundle; of runs there are no figures"
    entry: Mapping[str, Any] = manifest.raw[KEY]
    return f"measured when the bundle was built, by {entry.get('by', 'an unnamed engine')}"
