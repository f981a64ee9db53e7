"""`himar-export refit`: a bundle with another checkpoint's weights, its engines refitted and not built again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from himar.family import open_model
from himar_kernels import BuildError, ConfigError
from himar_kernels.families.registry import TEXT_ENCODER
from himar_kernels.shared.files import new_folder
from himar_runtime import Bundle
from himar_runtime.bundle.schema import BackendInfo
from himar_runtime.engines.tensorrt.library import (
    collected_errors,
    first_error,
    library_logger,
    library_version,
    load_library,
)

from ..families.family import export_family
from ..files import require_new
from ..graph.component import Component
from ..graph.fp32_layers import keep_in_float32
from ..graph.precision_choice import check_precision
from ..tensorrt.build import is_weight
from .assemble import BuildOutcome, Progress, add_graphs, bundle_parts, finish, load_fitting_vae, within
from .build import provenance
from .calibrate import calibrate
from .engine_cache import external_bytes
from .engines import TENSORRT_BACKENDS
from .gpu import find_gpu
from .manifest import BundleWriter
from .text import load_fitting_text

_DATA_TYPES = {
    onnx.TensorProto.FLOAT: "FLOAT",
    onnx.TensorProto.FLOAT16: "HALF",
    onnx.TensorProto.BFLOAT16: "BF16",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.FLOAT8E4M3FN: "FP8",
}


@dataclass(frozen=True)
class RefitRequest:
    """What to refit.

    Attributes:
        bundle: what was built from an earlier checkpoint; it stays as it is.
        checkpoint: of the same sizes. The bundle's own configuration is used, with its sampling settings.
        out: folder that the new bundle becomes.
        vae: KL-VAE checkpoint, needed exactly when the bundle has a decoder.
        text: folder of a CLIP model, needed exactly when the bundle has a text tower.
        weights, command: as for BuildRequest.
    """

    bundle: Path
    checkpoint: Path
    out: Path
    vae: Path | None = None
    text: Path | None = None
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
    family = export_family(manifest.family)
    backend = dict(manifest.raw["backend"])
    engines = backend["name"] in TENSORRT_BACKENDS
    in_fp8 = [name for name, spec in manifest.components.items() if spec.precision == "fp8"]
    if engines and in_fp8:
        raise BuildError(
            f"the engines of {request.bundle} for {', '.join(in_fp8)} are in fp8 and keep the scales that they were "
            f"built with, so they take no other weights; build the bundle anew."
        )
    if engines and not backend.get("refittable"):
        raise BuildError(f"the engines of {request.bundle} were built without --refittable; build the bundle anew.")
    if engines:
        _library(manifest.backend)
    if ("vae" in manifest.provenance) != (request.vae is not None):
        change = "leave --vae out" if request.vae else "give its VAE with --vae"
        raise ConfigError(
            f"{request.bundle} has {'no' if request.vae else 'a'} VAE decoder; {change}, or build a bundle anew."
        )
    if (TEXT_ENCODER in manifest.components) != (request.text is not None):
        change = "leave --text out" if request.text else "give its folder with --text"
        raise ConfigError(
            f"{request.bundle} has {'no' if request.text else 'a'} text tower; {change}, or build a bundle anew."
        )
    progress("reading the checkpoint", 0.0)
    with new_folder(request.out, BuildError) as folder:
        model, entry = open_model(
            request.checkpoint, family.config_of(manifest), weights=request.weights, wanted=manifest.family
        )
        if model.class_names is None:
            model.class_names = manifest.class_names
        vae = load_fitting_vae(request.vae, model)
        text = load_fitting_text(request.text, model)
        parts = bundle_parts(manifest, model, vae, text)
        if {part.name for part in parts} != set(manifest.components):
            raise BuildError(
                f"{request.bundle} has the components {', '.join(manifest.components)}, and this version of himar "
                f"exports {', '.join(part.name for part in parts)}; build a bundle anew."
            )
        precisions = {part.name: check_precision(manifest.components[part.name].precision, part.name) for part in parts}
        kept = {part.name: manifest.raw["components"][part.name].get("fp32_layers", []) for part in parts}
        parts = keep_in_float32(parts, precisions, kept)
        writer = BundleWriter(folder, model, manifest.max_batch)
        ranges = calibrate(folder, model, parts, precisions, within(progress, 0.05, 0.2))
        add_graphs(writer, model, vae, parts, precisions, within(progress, 0.2, 0.5), text, ranges)
        for part in parts:
            require_same_structure(old.path(manifest.components[part.name].file), folder / f"{part.name}.onnx")
        entries = _refit_engines(old, folder, parts, within(progress, 0.5, 0.7)) if engines else {}
        origin = provenance(request.checkpoint, request.vae, entry, request.command, request.text)
        origin["refitted"] = {"bundle": old.id, "checkpoint": manifest.provenance.get("checkpoint")}
        device = "cuda" if engines else "cpu"
        return finish(folder, writer, model, vae, text, parts, precisions, backend, entries, origin, device, progress)


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


def _refit_engines(old: Bundle, folder: Path, parts: Sequence[Component], progress: Progress) -> dict[str, Any]:
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


@dataclass(frozen=True)
class NamedWeight:
    """A weight's bytes as TensorRT takes them. dtype: name of a TensorRT DataType; count: of its elements."""

    dtype: str
    count: int
    data: NDArray[np.uint8]

    def to_weights(self, library: ModuleType) -> Any:
        """Return the library's Weights, which point into `data`."""
        return library.Weights(getattr(library.DataType, self.dtype), self.data.ctypes.data, self.count)


def named_weights(file: Path) -> dict[str, NamedWeight]:
    """Read every initializer of an ONNX file with its external weights, by name."""
    model = onnx.load(file)
    found = {}
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        data = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        found[tensor.name] = NamedWeight(_DATA_TYPES.get(tensor.data_type, ""), int(array.size), data)
    return found


def refit_engine(library: ModuleType, data: bytes, file: Path, component: str) -> bytes:
    """Return the engine `data` with the weights of the ONNX file, refittable again.

    Raises BuildError when the engine does not load here, is not refittable, or lacks or refuses a weight.
    """
    weights = named_weights(file)
    logger = library_logger(library)
    runtime = library.Runtime(logger)
    runtime.engine_host_code_allowed = True  # a version-compatible engine brings its runtime along
    with collected_errors(library) as errors:
        engine = runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise BuildError(f"the engine of {component} does not load here: {first_error(errors)}")
        if not engine.refittable:
            raise BuildError(f"the engine of {component} was built without --refittable; build the bundle anew.")
        refitter = library.Refitter(engine, logger)
        for name in refitter.get_all_weights():
            if name not in weights:
                raise BuildError(f"the engine of {component} has a weight {name!r} that its graph does not name.")
            if not refitter.set_named_weights(name, weights[name].to_weights(library)):
                raise BuildError(f"the engine of {component} refuses the weight {name}: {first_error(errors)}")
        missing = refitter.get_missing_weights()
        if missing or not refitter.refit_cuda_engine():
            reason = f"it also needs {', '.join(missing)}" if missing else first_error(errors)
            raise BuildError(f"the engine of {component} cannot be refitted: {reason}")
        config = engine.create_serialization_config()
        config.clear_flag(library.SerializationFlag.EXCLUDE_WEIGHTS)
        config.set_flag(library.SerializationFlag.INCLUDE_REFIT)
        return bytes(engine.serialize_with_config(config))
