"""`himar-export refit`: a bundle with another checkpoint's weights, its engines refitted and not built again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx

from himar.families.hi_mar.checkpoints import open_checkpoint
from himar.families.hi_mar.config import ModelConfig
from himar_kernels import BuildError, ConfigError
from himar_kernels.shared.files import new_folder
from himar_runtime import Bundle, Manifest
from himar_runtime.bundle.schema import BackendInfo
from himar_runtime.engines.tensorrt.library import library_version, load_library
from himar_runtime.families.hi_mar.family import hi_mar_model

from ..families.hi_mar.components import Component, components
from ..files import require_new
from ..graph.precision_choice import check_precision
from ..tensorrt.build import is_weight
from ..tensorrt.refit import refit_engine
from .assemble import BuildOutcome, Progress, add_graphs, finish, load_fitting_vae, within
from .build import provenance
from .engine_cache import external_bytes
from .engines import TENSORRT_BACKENDS
from .gpu import find_gpu
from .manifest import BundleWriter


@dataclass(frozen=True)
class RefitRequest:
    """What to refit.

    Attributes:
        bundle: what was built from an earlier checkpoint; it stays as it is.
        checkpoint: of the same sizes. The bundle's own configuration is used, with its sampling settings.
        out: folder that the new bundle becomes.
        vae: KL-VAE checkpoint, needed exactly when the bundle has a decoder.
        weights, command: as for BuildRequest.
    """

    bundle: Path
    checkpoint: Path
    out: Path
    vae: Path | None = None
    weights: str | None = None
    command: tuple[str, ...] = ()


def refit(request: RefitRequest, progress: Progress = lambda text, fraction: None) -> BuildOutcome:
    """Write a new bundle with the checkpoint's weights and verify it against its eager model.

    Everything but the engines is made by the code that builds a bundle, so it is what a fresh build would give.

    Raises:
        BundleError: the bundle is damaged or missing.
        CheckpointError, ConfigError: the checkpoint is of other sizes, a VAE is missing or too many.
        BuildError: the bundle's engines are not refittable, not of this library, or not of this machine's GPU; this
            version of himar exports other graphs; the output exists.
        VerificationError: the refitted engines do not give the model's numbers; nothing is left behind.
    """
    require_new(request.out)
    old = Bundle.open(request.bundle)
    manifest = old.manifest
    hi_mar_model(manifest)
    backend = dict(manifest.raw["backend"])
    engines = backend["name"] in TENSORRT_BACKENDS
    if engines and not backend.get("refittable"):
        raise BuildError(f"the engines of {request.bundle} were built without --refittable; build the bundle anew.")
    if engines:
        _library(manifest.backend)
    if ("vae_decoder" in manifest.components) != (request.vae is not None):
        change = "leave --vae out" if request.vae else "give its VAE with --vae"
        raise ConfigError(
            f"{request.bundle} has {'no' if request.vae else 'a'} VAE decoder; {change}, or build a bundle anew."
        )
    progress("reading the checkpoint", 0.0)
    with new_folder(request.out, BuildError) as folder:
        model, entry = open_checkpoint(request.checkpoint, _config(manifest), weights=request.weights)
        if model.class_names is None:
            model.class_names = manifest.class_names
        vae = load_fitting_vae(request.vae, model)
        parts = components(model, vae, manifest.max_batch, backend["name"])
        precisions = {part.name: check_precision(manifest.components[part.name].precision, part.name) for part in parts}
        writer = BundleWriter(folder, model, manifest.max_batch)
        add_graphs(writer, model, parts, precisions, within(progress, 0.05, 0.5))
        for part in parts:
            require_same_structure(old.path(manifest.components[part.name].file), folder / f"{part.name}.onnx")
        entries = _refit_engines(old, folder, parts, within(progress, 0.5, 0.7)) if engines else {}
        origin = provenance(request.checkpoint, request.vae, entry, request.command)
        origin["refitted"] = {"bundle": old.id, "checkpoint": manifest.provenance.get("checkpoint")}
        device = "cuda" if engines else "cpu"
        return finish(folder, writer, model, vae, precisions, backend, entries, origin, device, progress)


def require_same_structure(old: Path, new: Path) -> None:
    """Raise BuildError unless two ONNX files differ in the values of their weights alone."""
    structures = []
    for file in (old, new):
        model = onnx.load(file, load_external_data=False)
        for tensor in model.graph.initializer:
            constant = b"" if is_weight(tensor.name) else external_bytes(tensor, file.parent)
            kept = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=constant)
            tensor.CopyFrom(kept)
        structures.append(model.SerializeToString(deterministic=True))
    if structures[0] != structures[1]:
        raise BuildError(
            f"the graph {old.name} of the bundle is not the one that this version of himar exports for the "
            f"checkpoint, so its engine cannot be refitted; build a bundle anew."
        )


def _refit_engines(old: Bundle, folder: Path, parts: tuple[Component, ...], progress: Progress) -> dict[str, Any]:
    """Refit every engine of the old bundle with the new graphs' weights; return the manifest's engine entries."""
    backend = old.manifest.backend
    library = _library(backend)
    if find_gpu() is None:
        raise BuildError(
            f"the graphs fit, but refitting engines of {backend.name} takes a GPU that can run them, and none can be "
            f"used here; refit on such a machine."
        )
    entries = {}
    for number, part in enumerate(parts):
        progress(f"refitting {part.name}", number / len(parts))
        spec = old.manifest.components[part.name]
        data = old.path(spec.engine_file).read_bytes()
        file = folder / f"{part.name}.onnx"
        refitted = refit_engine(library, data, file, part.name)
        (folder / f"{part.name}.engine").write_bytes(refitted)
        engine: Mapping[str, Any] = old.manifest.raw["components"][part.name]["engine"]
        entries[part.name] = {**engine, "file": f"{part.name}.engine", "refitted": True}
    return entries


def _library(backend: BackendInfo) -> ModuleType:
    """Return what opens engines of a backend; EngineError or BuildError when it is not here in their version."""
    library = load_library(backend.name)
    if library_version(library) != backend.version and not backend.version_compatible:
        raise BuildError(
            f"the bundle's engines are of {backend.name} {backend.version}, and {library_version(library)} is "
            f"installed here; install that version, or build the bundle anew."
        )
    return library


def _config(manifest: Manifest) -> dict[str, Any]:
    """Return the bundle's own configuration, as a checkpoint's."""
    known = {field.name for field in fields(ModelConfig)}
    sizes = {name: value for name, value in manifest.raw["model"].items() if name in known}
    sampling = {name: settings.to_dict() for name, settings in manifest.sampling.items()}
    return {**sizes, "sampling": sampling}
