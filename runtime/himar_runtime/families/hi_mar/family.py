"""Hi-MAR as the runtime knows it: its sizes and settings in a manifest, its checks, its loop."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from himar_kernels import BundleError, Draws, EngineError, ImageDraws, InputError, PhiloxDraws
from himar_kernels.arithmetic.editing import Edit
from himar_kernels.families.hi_mar import DILATION, SamplingConfig, drawn_counts, edit_plan, edit_sampling
from himar_kernels.families.hi_mar.editing import require_no_guidance
from himar_kernels.families.hi_mar.phases import Context, HeadKind, ModelInfo, Pivots
from himar_kernels.families.hi_mar.sampling import CHANGEABLE, choose_sampling, require_dit_head, require_phase_low
from himar_kernels.families.registry import TEXT_ENCODER
from himar_runtime.bundle.bundle import Bundle
from himar_runtime.bundle.manifest import Manifest, Reader, inside
from himar_runtime.engines.networks import Networks
from himar_runtime.families.family import read_settings
from himar_runtime.runner import Generated, Runner

from .host import HostRunner, generated

log = logging.getLogger(__name__)


class HiMarFamily:
    """See `himar_runtime.families.family.RuntimeFamily`."""

    editing_advice = "build it again with --editing"
    changeable = CHANGEABLE

    def read_model(self, reader: Reader) -> ModelInfo:
        """See RuntimeFamily.read_model."""
        pivots: Pivots = reader.choice("pivots", get_args(Pivots), ModelInfo.pivots)
        low_head: HeadKind = reader.choice("low_head", get_args(HeadKind), ModelInfo.low_head)
        high_head: HeadKind = reader.choice("high_head", get_args(HeadKind), ModelInfo.high_head)
        context: Context = reader.choice("context", get_args(Context), ModelInfo.context)
        others = ("vae_scale", "pivots", "low_head", "high_head", "context", "context_width")
        names = [f.name for f in fields(ModelInfo) if f.name not in others]
        if context == "text":
            names = [*(name for name in names if name != "classes"), "context_width"]
            _require_text(reader)
        sizes = {name: reader.positive(name) for name in names if name != "cond_scale" or pivots != "none"}
        if pivots == "none" and reader.get("cond_scale", int) != 0:
            raise BundleError(
                f"{reader.source}: model.cond_scale is {reader.values['cond_scale']}, but model.pivots is 'none', "
                f"which is a single scale; build the bundle again."
            )
        values: dict[str, Any] = {"cond_scale": 0, "classes": 0, **sizes, "vae_scale": reader.get("vae_scale", float)}
        model = ModelInfo(**values, pivots=pivots, low_head=low_head, high_head=high_head, context=context)
        if not 0 < model.vae_scale < math.inf:
            raise BundleError(f"{reader.source}: model.vae_scale is {model.vae_scale}; it must be a positive number.")
        if model.img_size % model.vae_stride:
            raise BundleError(
                f"{reader.source}: model.img_size {model.img_size} is not a multiple of vae_stride {model.vae_stride}."
            )
        return model

    def read_sampling(self, top: Reader) -> dict[str, SamplingConfig]:
        """See RuntimeFamily.read_sampling."""
        return read_settings(SamplingConfig, top, "solver_sampling", "forecast_sampling")

    def sampling_from_dict(self, values: Mapping[str, Any], source: str) -> SamplingConfig:
        """See RuntimeFamily.sampling_from_dict."""
        return SamplingConfig.from_dict(values, source)

    def choose_sampling(
        self,
        model: ModelInfo,
        named: Mapping[str, SamplingConfig],
        sampling: str | SamplingConfig | None,
        guidance: float | None,
        changes: Mapping[str, Any],
    ) -> SamplingConfig:
        """See RuntimeFamily.choose_sampling; guidance is both phases' unless a phase's own is among the changes."""
        settings = choose_sampling(named, sampling, guidance, changes)
        require_phases(model, settings, changes)
        return settings

    def edit_sampling(
        self,
        model: ModelInfo,
        named: Mapping[str, SamplingConfig],
        sampling: str | SamplingConfig | None,
        guidance: float | None,
        changes: Mapping[str, Any],
        shown: bool,
    ) -> SamplingConfig:
        """See RuntimeFamily.edit_sampling."""
        if not shown:
            require_no_guidance(guidance, changes)
        return edit_sampling(self.choose_sampling(model, named, sampling, guidance, changes), shown)

    def dilation(self, asked: int | None) -> int:
        """See RuntimeFamily.dilation."""
        return DILATION if asked is None else asked

    def edit_kinds(self, model: ModelInfo, edit: Edit) -> Sequence[object]:
        """See RuntimeFamily.edit_kinds: how many positions of each phase are drawn, which the index lists go by."""
        return [tuple(counts) for counts in drawn_counts(edit, model).tolist()]

    def draws(self, seed: int) -> Draws:
        """See RuntimeFamily.draws."""
        return PhiloxDraws(seed)

    def image_draws(self, seeds: Sequence[int], indices: Sequence[int]) -> Draws:
        """See RuntimeFamily.image_draws."""
        return ImageDraws(seeds, indices)

    def steps(self, model: ModelInfo, sampling: SamplingConfig, edit: Edit | None = None) -> int:
        """See RuntimeFamily.steps."""
        if edit is not None:
            return len(edit_plan(sampling, model, drawn_counts(edit, model)[0]))
        return sampling.high_steps + (0 if model.single_scale else sampling.low_steps)

    def shown(self, model: ModelInfo, sampling: SamplingConfig, edit: Edit | None = None) -> range:
        """See RuntimeFamily.shown: from the end of phase low on; of a single scale always."""
        low_steps = sampling.low_steps
        if edit is not None:
            steps = edit_plan(sampling, model, drawn_counts(edit, model)[0])
            low_steps = sum(step.phase == "low" for step in steps)
        return range(1 if model.single_scale else low_steps, self.steps(model, sampling, edit))

    def no_images(self, model: ModelInfo) -> Generated:
        """See RuntimeFamily.no_images."""
        return generated(
            model,
            np.zeros((0, model.low_positions, model.channels), np.float32),
            np.zeros((0, model.high_positions, model.channels), np.float32),
            np.zeros((0, model.img_size, model.img_size, 3), np.uint8),
        )

    def first_needed(self, manifest: Manifest) -> tuple[str, ...]:
        """See RuntimeFamily.first_needed: a text tower, and a head's parts where the setting holds modulations."""
        model = hi_mar_model(manifest)
        tower = () if model.context_shape is None else (TEXT_ENCODER,)
        default: SamplingConfig = next(iter(manifest.sampling.values()))
        if default.modulation_interval == 1:
            return tower
        return (*tower, *(name for phase in model.phases for name in phase.held or ()))

    def resident_bytes(self, manifest: Manifest) -> int:
        """See RuntimeFamily.resident_bytes."""
        from .resident.buffers import buffer_sizes
        from .resident.lane import condition_width, held_sizes

        model, components, batch = hi_mar_model(manifest), manifest.components, manifest.max_batch
        needed = self.first_needed(manifest)
        if any(phase.head not in components for phase in model.phases):
            return 0  # what loads the bundle refuses it soon
        widths = {phase.name: condition_width(components[phase.head]) for phase in model.phases}
        makers = [phase.held[0] for phase in model.phases if phase.held]
        held = [held_sizes(components[name], 2 * batch) for name in makers if name in needed and name in components]
        return sum(buffer_sizes(model, batch, widths).values()) + sum(sum(sizes.values()) for sizes in held)

    def runner(self, bundle: Bundle, networks: Networks) -> Runner:
        """Return the resident loop where the engines have a GPU lane, else the loop on the host, saying why."""
        model, empty = hi_mar_model(bundle.manifest), empty_context(bundle)
        if networks.lane is None:
            return HostRunner(networks, model, empty)
        from .resident.runner import ResidentRunner

        try:
            return ResidentRunner(networks, networks.lane, model, bundle.manifest.max_batch, empty)
        except EngineError as error:
            log.warning("the loop runs on the host, not on the GPU: %s", error)
            return HostRunner(networks, model, empty)


FAMILY = HiMarFamily()


def hi_mar_model(manifest: Manifest) -> ModelInfo:
    """Return the sizes of a bundle's model, for what is Hi-MAR's alone; InputError when it is of another family."""
    if not isinstance(manifest.model, ModelInfo):
        raise InputError(f"this bundle's model is of the family {manifest.family!r}, and this works on 'hi_mar' alone.")
    return manifest.model


def empty_context(bundle: Bundle) -> NDArray[np.float32] | None:
    """Return the context (K, W) of the empty prompt, of which unconditional rows are; None where images are of classes.

    Raises BundleError when its file is not the one that the manifest describes.
    """
    shape = hi_mar_model(bundle.manifest).context_shape
    if shape is None:
        return None
    return bundle.floats(bundle.manifest.raw["model"]["empty_context"], shape, "model.empty_context")


def _require_text(reader: Reader) -> None:
    """Raise BundleError unless a text model has no classes, and says where its empty context is."""
    if reader.values.get("classes", 0) != 0:
        raise BundleError(
            f"{reader.source}: model.classes is {reader.values['classes']!r}, but model.context is 'text', which has "
            f"none; build the bundle again."
        )
    empty = reader.reader("empty_context")
    inside(empty.get("file", str), reader.source)
    empty.get("sha256", str)


def require_phases(
    model: ModelInfo, settings: SamplingConfig, changes: Mapping[str, Any], name: str = "this bundle's model"
) -> None:
    """Raise InputError unless the model has the phases and positions that a request speaks of.

    changes: the fields that the caller named; with a single scale none may be of phase low, which would be ignored.
    name: of the model in the error's text.
    """
    if model.single_scale:
        require_phase_low(changes, name)
    settings.check_positions(model.low_positions, model.high_positions)
    require_dit_head(settings, {phase.kind for phase in model.phases}, name)
