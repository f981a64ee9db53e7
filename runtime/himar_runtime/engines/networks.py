"""Loads the engines of one bundle together."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from himar_kernels import BundleError, EngineError
from himar_kernels.families.registry import VAE_DECODER

from ..bundle.bundle import Bundle
from ..families.family import ModelSizes
from ..queue.device import ResidentEngine
from .deferred import DeferredEngine
from .engine import Device, Engine

if TYPE_CHECKING:
    from ..queue.cuda.device import CudaDevice

log = logging.getLogger(__name__)

GPU_BACKENDS = ("tensorrt", "tensorrt-rtx")
"""Backends whose engines run on an NVIDIA GPU alone."""


@dataclass(frozen=True)
class Networks:
    """One engine per component, by its name.

    lane: the GPU lane whose queue the engines run on; None on the CPU, or where our kernels cannot be launched.
    """

    engines: Mapping[str, Engine]
    lane: CudaDevice | None = None

    def __getitem__(self, component: str) -> Engine:
        """Return the engine of a component that the bundle has."""
        return self.engines[component]

    @property
    def vae_decoder(self) -> Engine | None:
        """The decoder; None in a bundle that gives latents only."""
        return self.engines.get(VAE_DECODER)

    def clone(self) -> Networks:
        """Return engines for another lane: shared weights, own buffers."""
        lane = None if self.lane is None else self.lane.another()
        return Networks({name: engine.clone(lane) for name, engine in self.engines.items()}, lane)

    def resident(self) -> dict[str, ResidentEngine]:
        """Return the engines as such that take tensors in device memory; EngineError when one cannot."""
        engines: dict[str, ResidentEngine] = {}
        for name, engine in self.engines.items():
            if not isinstance(engine, ResidentEngine):
                raise EngineError(f"the engine of {name} cannot take its tensors in device memory.")
            engines[name] = engine
        return engines


def open_bundle(path: str | Path, device: Device) -> Bundle:
    """Open a bundle to load its engines on a device.

    Where graphs are kept with packed weights (`ort.packed`), the bundle's own may not be read: each of its files is
    hashed before it is read, and all at once otherwise. Raises what Bundle.open does.
    """
    from .ort.packed import keeps_packed

    return Bundle.open(path, hash_when_read=device.kind == "cpu" and keeps_packed())


def load_networks(bundle: Bundle, device: Device, threads: int | None, backend: str | None = None) -> Networks:
    """Load every engine of a bundle.

    backend: None runs what the bundle was built for; "onnxruntime" runs its ONNX graphs, which every bundle has.

    Raises BundleError when a component is missing, EngineError when an engine cannot run on this machine.
    """
    components = bundle.manifest.components
    model: ModelSizes = bundle.manifest.model
    required = model.networks
    missing = [name for name in required if name not in components]
    if missing:
        raise BundleError(f"{bundle.root} lacks the component {', '.join(missing)}; build the bundle again.")
    names = [*required, *(name for name in model.optional if name in components)]
    lane = open_lane(device, {backend or components[name].backend for name in names})
    engines: dict[str, Engine] = {name: load_engine(bundle, name, device, threads, backend, lane) for name in names}
    for name in model.deferred:
        if name in components:
            load = functools.partial(load_engine, bundle, name, device, threads, backend, lane)
            engines[name] = DeferredEngine(components[name], load)
    return Networks(engines, lane)


def open_lane(device: Device, backends: set[str]) -> CudaDevice | None:
    """Return a lane of a GPU for engines of these backends; None on the CPU.

    Where our kernels cannot be launched, ONNX Runtime runs without a lane, with a warning that says why; a TensorRT
    engine cannot: EngineError.
    """
    if device.kind == "cpu":
        return None
    from ..queue.cuda.device import CudaDevice

    try:
        # A session of ONNX Runtime is bound to one stream, so all lanes of such engines share it.
        return CudaDevice(device.index, shared="onnxruntime" in backends)
    except EngineError as error:
        if backends != {"onnxruntime"}:
            raise
        log.warning("the loop runs on the host, not on %s: %s", device, error)
        return None


def load_engine(
    bundle: Bundle,
    name: str,
    device: Device,
    threads: int | None,
    backend: str | None = None,
    lane: CudaDevice | None = None,
) -> Engine:
    """Load the engine of one component; `backend` as in load_networks. A TensorRT engine opens a lane if none is given.

    Raises BundleError for an unknown name and EngineError when it cannot run on this machine.
    """
    spec = bundle.manifest.components.get(name)
    if spec is None:
        known = ", ".join(bundle.manifest.components)
        raise BundleError(f"{bundle.root} has no component {name!r}; it has {known}.")
    wanted = backend or spec.backend
    if wanted not in ("onnxruntime", spec.backend):
        graph = "" if spec.backend == "onnxruntime" else ", or for 'onnxruntime', which runs its ONNX graph"
        raise EngineError(
            f"{name} in {bundle.root} has an engine for {spec.backend!r}, not for {wanted!r}; "
            f"ask for {spec.backend!r}{graph}."
        )
    if wanted == "onnxruntime":
        from .ort.engine import OrtEngine
        from .ort.packed import contents

        file = spec.engine_file if spec.backend == "onnxruntime" else spec.file
        return OrtEngine.load(bundle.place(file), spec, device, threads, lane, contents(bundle, file))
    if wanted not in GPU_BACKENDS:
        raise EngineError(
            f"{name} in {bundle.root} is an engine for {wanted!r}, which this himar does not know: build the bundle "
            f"for {', '.join(('onnxruntime', *GPU_BACKENDS))}, or install himar {bundle.manifest.himar_version}, "
            f"which built it."
        )
    if device.kind == "cpu":
        raise EngineError(
            f"{name} in {bundle.root} is an engine for {wanted}, which needs an NVIDIA GPU; use device 'cuda', "
            f"or backend 'onnxruntime' to run the bundle's ONNX graphs on the CPU."
        )
    from .tensorrt.engine import TensorRTEngine

    lane = lane or open_lane(device, {wanted})
    assert lane is not None  # open_lane raised where there is none
    return TensorRTEngine.load(bundle.path(spec.engine_file), spec, bundle.manifest.backend, lane)
