"""Defines what a benchmark compares: a bundle's engines and the eager model they were built from, on one device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from himar.family import open_model
from himar.text.encoder import TextEncoder
from himar_kernels import ConfigError, EngineError, InputError
from himar_kernels.families.registry import TEXT_ENCODER, VAE_DECODER
from himar_runtime import Bundle, Device, Networks, Pipeline, load_networks

from ..cost.request import bundle_request
from ..cost.run import CostRequest
from ..families.bench import FamilyBench, family_bench
from ..make.text import load_fitting_text
from .shown import SEED as SEED
from .shown import Shown, what_is_shown


@dataclass(frozen=True)
class Workload:
    """Both sides, loaded.

    model, vae: of the bundle's family; vae None where generations end at latents; then `networks` lack the decoder too.
    text: tower and tokenizer where generations begin at prompts, else None.
    request: the settings and costs of one image at once (`dataclasses.replace` its batch). precisions: of each
    component's matmuls.
    """

    bundle: Bundle
    networks: Networks
    pipeline: Pipeline
    model: Any
    vae: Any
    request: CostRequest
    device: torch.device
    text: TextEncoder | None = None

    @property
    def family(self) -> FamilyBench:
        """The model's family."""
        return family_bench(self.bundle.manifest.family)

    @property
    def sampling(self) -> Any:
        """The settings of every generation, of the family's own class."""
        return self.request.sampling

    @property
    def precisions(self) -> Mapping[str, str]:
        """Each component's precision."""
        return self.request.precision

    @property
    def eager_precisions(self) -> Mapping[str, str]:
        """The eager side's: float32 where the engines have int8, fp16 where fp8, which PyTorch's modules do not."""
        return {name: {"int8": "fp32", "fp8": "fp16"}.get(each, each) for name, each in self.precisions.items()}

    def shown(self, batch: int) -> Shown:
        """Return what the images of a batch show: classes or contexts, see `what_is_shown`."""
        model = self.bundle.manifest.model
        return what_is_shown(batch, model.classes, model.context_shape, prompts=self.text is not None)

    @property
    def given(self) -> str:
        """What the images of a batch show, in a word."""
        if self.bundle.manifest.model.context_shape is None:
            return "labels"
        return "contexts" if self.text is None else "prompts"


@dataclass(frozen=True)
class Sources:
    """Where both sides come from; options as those of `himar-export bench`."""

    bundle: Path
    checkpoint: Path
    config: str | None
    vae: Path | None
    weights: str | None
    device: str
    sampling_name: str | None
    guidance: float | None
    changes: Mapping[str, Any]
    text: Path | None = None


def load(sources: Sources, threads: int) -> Workload:
    """Load both sides; `threads` are the engines' on a CPU.

    Raises ConfigError when the checkpoint is not the bundle's, EngineError when something cannot run on the device,
    InputError for settings that the model does not have.
    """
    where = Device.parse(sources.device)
    require_gpu(sources.device)
    opened = Bundle.open(sources.bundle)
    family = family_bench(opened.manifest.family)
    request = bundle_request(sources.bundle, 1, sources.sampling_name, sources.guidance, **sources.changes)
    model: Any = open_model(sources.checkpoint, sources.config, weights=sources.weights)[0]
    same = model.family == opened.manifest.family
    if not same or replace(request.config, sampling=model.config.sampling) != model.config:
        raise ConfigError(
            f"{sources.checkpoint} is not the model of {sources.bundle}: their sizes differ; give the one it was built "
            f"from."
        )
    vae = family.load_vae(sources.vae, model)
    if vae is not None and VAE_DECODER not in opened.manifest.components:
        raise ConfigError(f"{sources.bundle} has no VAE decoder to compare with {sources.vae}; leave --vae out.")
    text = load_fitting_text(sources.text, model)
    if text is not None and TEXT_ENCODER not in opened.manifest.components:
        raise ConfigError(f"{sources.bundle} has no text encoder to compare with {sources.text}; leave --text out.")
    networks = load_networks(opened, where, threads)
    if vae is None:
        engines = {name: engine for name, engine in networks.engines.items() if name != VAE_DECODER}
        networks = Networks(engines, networks.lane)
        request = replace(request, decoder=None)
    device = torch.device("cpu" if where.kind == "cpu" else str(where))
    model = model.eval().requires_grad_(False).to(device)
    vae = None if vae is None else vae.eval().requires_grad_(False).to(device)
    if text is not None:
        text = replace(text, tower=text.tower.eval().requires_grad_(False).to(device))
    return Workload(opened, networks, Pipeline(opened, networks), model, vae, request, device, text)


def require_gpu(device: str) -> None:
    """Raise EngineError unless PyTorch has "cuda" or "cuda:N"; "cpu" is always there."""
    where = Device.parse(device)
    if where.kind == "cpu":
        return
    if not torch.cuda.is_available():
        raise EngineError(f"PyTorch has no GPU here for device {device!r}; use --device cpu.")
    count = torch.cuda.device_count()
    if where.index >= count:
        raise EngineError(f"PyTorch has {count} GPU here, so no device {device!r}; use --device cuda:{count - 1}.")


def require_batch(bundle: Bundle, batch: int) -> None:
    """Raise InputError for a batch beyond the bundle's."""
    most = bundle.manifest.max_batch
    if batch > most:
        raise InputError(f"batch {batch} is beyond the bundle's max_batch {most}; choose a smaller one.")
