"""The engines of one bundle, loaded together."""

from __future__ import annotations

from dataclasses import dataclass

from himar_kernels import BundleError, EngineError

from .bundle import Bundle
from .engine import Device, Engine

_REQUIRED = ("transformer_low", "transformer_high", "mlp_head", "dit_head")
_OPTIONAL = "vae_decoder"

GPU_BACKENDS = ("tensorrt", "tensorrt-rtx")
"""Backends whose engines run on an NVIDIA GPU alone."""


@dataclass(frozen=True)
class Networks:
    """One engine per component; `vae_decoder` is None in a bundle that gives latents only."""

    transformer_low: Engine
    transformer_high: Engine
    mlp_head: Engine
    dit_head: Engine
    vae_decoder: Engine | None

    def clone(self) -> Networks:
        """Return engines for another lane: shared weights, own buffers."""
        return Networks(
            self.transformer_low.clone(),
            self.transformer_high.clone(),
            self.mlp_head.clone(),
            self.dit_head.clone(),
            self.vae_decoder.clone() if self.vae_decoder else None,
        )


def load_networks(bundle: Bundle, device: Device, threads: int | None, backend: str | None = None) -> Networks:
    """Load every engine of a bundle.

    backend: None runs what the bundle was built for; "onnxruntime" runs its ONNX graphs, which every bundle has.

    Raises BundleError when a component is missing, EngineError when an engine cannot run on this machine.
    """
    components = bundle.manifest.components
    missing = [name for name in _REQUIRED if name not in components]
    if missing:
        raise BundleError(f"{bundle.root} lacks the component {', '.join(missing)}; build the bundle again.")
    low, high, mlp, dit = (load_engine(bundle, name, device, threads, backend) for name in _REQUIRED)
    decoder = load_engine(bundle, _OPTIONAL, device, threads, backend) if _OPTIONAL in components else None
    return Networks(low, high, mlp, dit, decoder)


def load_engine(bundle: Bundle, name: str, device: Device, threads: int | None, backend: str | None = None) -> Engine:
    """Load the engine of one component; `backend` as in load_networks.

    Raises BundleError for an unknown name and EngineError when it cannot run on this machine.
    """
    spec = bundle.manifest.components.get(name)
    if spec is None:
        known = ", ".join(bundle.manifest.components)
        raise BundleError(f"{bundle.root} has no component {name!r}; it has {known}.")
    wanted = backend or spec.backend
    if wanted not in ("onnxruntime", spec.backend):
        raise EngineError(
            f"{name} in {bundle.root} has an engine for {spec.backend!r}, not for {wanted!r}; "
            f"ask for {spec.backend!r}, or for 'onnxruntime', which runs its ONNX graph."
        )
    if wanted == "onnxruntime":
        from .ort_engine import OrtEngine

        file = spec.engine_file if spec.backend == "onnxruntime" else spec.file
        return OrtEngine.load(bundle.path(file), spec, device, threads)
    if spec.backend in GPU_BACKENDS and device.kind == "cpu":
        raise EngineError(
            f"{name} in {bundle.root} is an engine for {spec.backend}, which needs an NVIDIA GPU; use device 'cuda', "
            f"or backend 'onnxruntime' to run the bundle's ONNX graphs on the CPU."
        )
    raise EngineError(
        f"{name} in {bundle.root} is an engine for {spec.backend!r}; this himar runs 'onnxruntime' only: "
        f"build the bundle for that, or install himar {bundle.manifest.himar_version}, which built it."
    )
