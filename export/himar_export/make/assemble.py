"""Holds the steps that building and refitting a bundle share: its graphs first, at the end its self-test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from himar.family import FamilyModel, model_family
from himar.text.encoder import TextEncoder
from himar_kernels.families.registry import VAE_ENCODER
from himar_runtime import Manifest
from himar_runtime.engines.ort.session import onnxruntime

from ..families.family import export_family
from ..files import write_npz
from ..graph.component import Component
from ..graph.observed import Range
from ..graph.precision_choice import Precision, check_precision
from ..graph.text_encoder import text_encoder
from ..memory.measure import measured_memory
from ..verify.compare import Comparison
from ..verify.verify import SELFTEST_CASE, what_ran
from .manifest import BundleWriter
from .selftest import check_selftest
from .text import record_text

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class BuildOutcome:
    """A kept bundle's verification: every comparison, and what ran it, in words."""

    comparisons: list[Comparison]
    ran: str


def load_fitting_vae(path: Path | None, model: FamilyModel) -> Any:
    """Load a VAE and check that it is one for this model's tokens; ConfigError if it is not."""
    return None if path is None else model_family(model.family).load_vae(path, model)


def bundle_parts(
    manifest: Manifest, model: FamilyModel, vae: Any, text: TextEncoder | None, backend: str | None = None
) -> tuple[Component, ...]:
    """Return the components that a bundle's options would give a model: those that it has of what there is on request.

    vae, text: None without. backend: that they are written for; None for the bundle's.
    """
    family, backend = export_family(manifest.family), backend or str(manifest.raw["backend"]["name"])
    parts = [*family.components(model, vae, manifest.max_batch, backend)]
    known = {each.name for each in family.held_modulations(model, manifest.max_batch, "fp32")}
    held = [spec for name, spec in manifest.components.items() if name in known]
    if held:
        precision = check_precision(held[0].precision, held[0].name)
        parts += family.held_modulations(model, manifest.max_batch, precision)
    if text is not None:
        parts.append(text_encoder(text.tower, manifest.max_batch, backend))
    edits = [] if vae is None else family.editing(model, vae, manifest.max_batch, backend)
    return (*parts, *(each for each in edits if each.name in manifest.components))


def add_graphs(
    writer: BundleWriter,
    model: FamilyModel,
    vae: Any,
    parts: Sequence[Component],
    precisions: Mapping[str, Precision],
    progress: Progress,
    text: TextEncoder | None = None,
    ranges: Mapping[str, Mapping[str, Range]] | None = None,
) -> None:
    """Export every component, and close the weights file; write the tokenizer of prompts.

    ranges: by component, what was observed of it (`calibrate`).
    """
    for number, component in enumerate(parts):
        precision = precisions[component.name]
        progress(f"exporting {component.name} in {precision}", number / len(parts))
        writer.add_component(component, precision, (ranges or {}).get(component.name))
    export_family(model.family).annotate(writer, model, vae)
    if text is not None:
        writer.add_tokenizer(text.tokenizer)
    writer.close_weights()


def finish(
    folder: Path,
    writer: BundleWriter,
    model: FamilyModel,
    vae: Any,
    text: TextEncoder | None,
    parts: Sequence[Component],
    precisions: Mapping[str, Precision],
    backend: Mapping[str, Any],
    engines: Mapping[str, Mapping[str, Any]],
    provenance: dict[str, Any],
    device: str,
    progress: Progress,
    memory: bool = False,
) -> BuildOutcome:
    """Record the self-test, write the manifest, verify what was built and note the outcome.

    device: where the engines run; on the CPU it is the ONNX graphs that are verified, whatever the backend. memory:
    measures what they take too. Raises VerificationError when an output is not the eager model's.
    """
    progress("recording the self-test from the eager model", 0.7)
    family = export_family(model.family)
    selftest = {**family.record_selftest(model, vae, SELFTEST_CASE), **(record_text(text) if text else {})}
    if VAE_ENCODER in precisions:
        selftest |= family.record_editing(model, vae, selftest)
    write_npz(folder / "selftest.npz", selftest)
    writer.write_manifest(backend, engines, provenance)
    progress("verifying against the eager model", 0.85)
    comparisons = check_selftest(folder, selftest, device)
    ran = what_ran(backend["name"], device)
    writer.add_verification(comparisons, ran)
    if memory:
        progress("measuring the memory that the engines take", 0.95)
        found = measured_memory(folder, backend["name"], precisions, device)
        if found is not None:
            writer.add_memory(found)
    progress("done", 1.0)
    return BuildOutcome(comparisons, ran)


def onnxruntime_entry() -> dict[str, Any]:
    """Return the manifest's `backend` of a bundle that ONNX Runtime runs."""
    return {"name": "onnxruntime", "version": onnxruntime().__version__, "compute_capability": None}


def within(progress: Progress, start: float, end: float) -> Progress:
    """Return a progress whose 0 to 1 is a part of another's."""
    return lambda text, fraction: progress(text, start + (end - start) * fraction)
