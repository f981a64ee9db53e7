"""`himar-export build`: checkpoint in, verified bundle out, or nothing at all."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import torch

from himar.family import FamilyModel, open_model
from himar.loading.checkpoint_files import weights_sha256
from himar_kernels import BuildError
from himar_kernels.shared.files import new_folder

from ..families.family import export_family
from ..files import require_new
from ..graph.component import Component
from ..graph.fp32_layers import keep_in_float32
from ..graph.precision_choice import Precision, check_precision, precision_of, require_runnable
from ..graph.text_encoder import text_encoder
from ..tensorrt.options import EngineOptions, check_suits
from .assemble import BuildOutcome, Progress, add_graphs, finish, load_fitting_vae, onnxruntime_entry, within
from .calibrate import calibrate
from .engines import TENSORRT_BACKENDS, build_engines, prepare_target
from .manifest import BundleWriter
from .text import load_fitting_text

BACKENDS = ("onnxruntime", *TENSORRT_BACKENDS)
MAX_BATCH_LIMIT = 1024


@dataclass(frozen=True)
class BuildRequest:
    """What to build.

    Attributes:
        checkpoint: of a model of any family, released layout or ours.
        out: folder that the bundle becomes; it must not exist.
        config: preset, JSON file or mapping; None takes the one that the checkpoint carries.
        vae: KL-VAE checkpoint; None builds a bundle that gives latents.
        text: folder of a CLIP model, whose text tower and tokenizer the bundle takes prompts with; None builds one that
            takes contexts.
        precision: of every component that `component_precision` does not name.
        component_precision: component name → precision.
        fp32_layers: component name → names or patterns of layers that stay in float32 (`keep_in_float32`).
        max_batch: most images that one run of the engines takes; larger requests are run in chunks.
        held_modulations: adds the parts of a DiT head that let a request hold its modulations.
        editing: adds the components with which a bundle of Hi-MAR edits images.
        engine_options: of TensorRT's builders.
        cache: folder of built engines to reuse and add to; None builds every engine anew.
        weights: set of weights to use of several, as for `himar.load_checkpoint`.
        memory: measures what the engines take in memory, for `himar_runtime.memory`.
        command: the command line, for the manifest's provenance.
    """

    checkpoint: Path
    out: Path
    config: str | Path | Mapping[str, Any] | None = None
    vae: Path | None = None
    text: Path | None = None
    precision: Precision = "fp32"
    component_precision: Mapping[str, str] = field(default_factory=dict)
    fp32_layers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    max_batch: int = 64
    backend: str = "onnxruntime"
    held_modulations: bool = False
    editing: bool = False
    engine_options: EngineOptions = field(default_factory=EngineOptions)
    cache: Path | None = None
    weights: str | None = None
    memory: bool = True
    command: tuple[str, ...] = ()


def build(request: BuildRequest, progress: Progress = lambda text, fraction: None) -> BuildOutcome:
    """Build and verify a bundle.

    Raises:
        CheckpointError, ConfigError: the checkpoint, the VAE, the text tower or the configuration do not fit (see their
            loaders).
        BuildError: the output exists or cannot be written, a precision, layer, backend or option is unknown or
            impossible here, a weight overflows, an engine cannot be built or is not of the precision that was asked
            for.
        VerificationError: what was built does not give the model's numbers; nothing is left behind.
    """
    _check_request(request)
    require_new(request.out)
    tensorrt = None
    if request.backend in TENSORRT_BACKENDS:
        fp8 = "fp8" in (request.precision, *request.component_precision.values())
        tensorrt = prepare_target(request.backend, request.engine_options, request.cache, fp8)
    progress("reading the checkpoint", 0.0)
    with new_folder(request.out, BuildError) as folder:
        model, entry = open_model(request.checkpoint, request.config, weights=request.weights)
        vae = load_fitting_vae(request.vae, model)
        text = load_fitting_text(request.text, model)
        parts = export_family(model.family).components(model, vae, request.max_batch, request.backend)
        if request.held_modulations:
            parts = (*parts, *_held_modulations(request, model))
        if text is not None:
            parts = (*parts, text_encoder(text.tower, request.max_batch, request.backend))
        if request.editing:  # last, so that the other graphs find their weights where they are without
            parts = (*parts, *_editing(request, model, vae))
        precisions = _precisions(request, parts)
        parts = keep_in_float32(parts, precisions, request.fp32_layers)
        writer = BundleWriter(folder, model, request.max_batch)
        ranges = calibrate(folder, model, parts, precisions, within(progress, 0.05, 0.3))
        exporting = within(progress, 0.3 if ranges else 0.05, 0.5 if tensorrt else 0.7)
        add_graphs(writer, model, vae, parts, precisions, exporting, text, ranges)
        engines = {}
        if tensorrt:
            engines = build_engines(tensorrt, folder, parts, precisions, within(progress, 0.5, 0.7))
        backend = tensorrt.backend_entry() if tensorrt else onnxruntime_entry()
        device = "cuda" if engines and all("inspected" in entry for entry in engines.values()) else "cpu"
        origin = provenance(request.checkpoint, request.vae, entry, request.command, request.text)
        return finish(
            folder,
            writer,
            model,
            vae,
            text,
            parts,
            precisions,
            backend,
            engines,
            origin,
            device,
            progress,
            request.memory,
        )


def _check_request(request: BuildRequest) -> None:
    if request.backend not in BACKENDS:
        raise BuildError(f"backend {request.backend!r} is unknown; this version builds for {', '.join(BACKENDS)}.")
    if not 1 <= request.max_batch <= MAX_BATCH_LIMIT:
        raise BuildError(f"max_batch is {request.max_batch}; it must be 1 to {MAX_BATCH_LIMIT}.")
    if request.held_modulations and request.backend != "onnxruntime":
        raise BuildError(
            f"--held-modulations is given, but modulations are held by ONNX Runtime, not by {request.backend!r}; leave "
            f"it out."
        )
    check_precision(request.precision, "the bundle")
    check_suits(request.engine_options, request.backend)


def _held_modulations(request: BuildRequest, model: FamilyModel) -> Sequence[Component]:
    """Return the parts of the model's DiT heads; BuildError where there is none, or none in their precision."""
    family = export_family(model.family)
    names = [part.name for part in family.held_modulations(model, request.max_batch, "fp32")]
    if not names:
        raise BuildError("--held-modulations is given, but this model has no DiT head to take apart; leave it out.")
    first, precision = names[0], precision_of(names[0], request.precision, request.component_precision)
    for name in names:
        own = precision_of(name, request.precision, request.component_precision)
        if own not in ("fp32", "fp16"):
            raise BuildError(
                f"{name} would be in {own}, but modulations are held in fp32 or fp16; build in one of them, or without "
                f"--held-modulations."
            )
        if own != precision:
            raise BuildError(
                f"{first} would be in {precision} and {name} in {own}, but what they share has one type; give both the "
                f"same precision."
            )
    family.add_held_setting(model)
    return family.held_modulations(model, request.max_batch, precision)


def _editing(request: BuildRequest, model: FamilyModel, vae: Any) -> Sequence[Component]:
    """Return the components of editing; BuildError without a VAE, and where every bundle of the family edits."""
    if vae is None:
        raise BuildError("--editing is given, but no VAE, which encodes the images to be edited; give it with --vae.")
    parts = export_family(model.family).editing(model, vae, request.max_batch, request.backend)
    if not parts:
        raise BuildError(f"--editing is given, but every bundle of the family {model.family!r} can edit; leave it out.")
    return parts


def _precisions(request: BuildRequest, parts: Sequence[Component]) -> dict[str, Precision]:
    names = [component.name for component in parts]
    for name in request.component_precision:
        if name not in names:
            raise BuildError(f"precision is given for {name!r}, but this bundle's components are {', '.join(names)}.")
    chosen = {name: precision_of(name, request.precision, request.component_precision) for name in names}
    require_runnable(chosen, request.backend)
    return chosen


def provenance(
    checkpoint: Path, vae: Path | None, weights: str | None, command: tuple[str, ...], text: Path | None = None
) -> dict[str, Any]:
    """Return where a bundle comes from: its sources' hashes, the command line, the versions that made it.

    weights: the entry of the checkpoint that was used, None where it held one set of weights.
    """
    sources = {"checkpoint": checkpoint, "vae": vae, "text": text}
    return {
        **{
            name: {"file": Path(path).name, "sha256": weights_sha256(Path(path))}
            for name, path in sources.items()
            if path is not None
        },
        "weights": weights,
        "command": list(command),
        "versions": {
            "himar": version("himar"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "numpy": version("numpy"),
        },
    }
