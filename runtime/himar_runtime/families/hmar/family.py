"""HMAR as the runtime knows it: its sizes and settings in a manifest, its checks, its loop."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from himar_kernels import BundleError, ConfigError, EngineError, InputError
from himar_kernels.arithmetic.editing import Edit
from himar_kernels.families.hmar import Draws, ImageDraws, PhiloxDraws, SamplingConfig, Scales, edit_sampling
from himar_kernels.families.hmar.sampling import CHANGEABLE, choose_sampling
from himar_kernels.families.hmar.sizes import CONDITIONS, VAR_TAIL, VAR_TRUNK, ModelInfo
from himar_runtime.bundle.bundle import Bundle
from himar_runtime.bundle.manifest import Manifest, Reader
from himar_runtime.engines.networks import Networks
from himar_runtime.families.family import read_settings
from himar_runtime.runner import Generated, Runner

from .host import HostRunner, load_codebook

log = logging.getLogger(__name__)

_CODEBOOK = ("embedding", "weights", "biases")


class HmarFamily:
    """See `himar_runtime.families.family.RuntimeFamily`."""

    editing_advice = "build the bundle again with this version of himar"
    changeable = tuple(name for name in CHANGEABLE if name != "guidance")  # a request says it by its own argument

    def read_model(self, reader: Reader) -> ModelInfo:
        """See RuntimeFamily.read_model."""
        names = [field.name for field in fields(ModelInfo) if field.name not in ("patch_nums", "masked", "tail")]
        sizes: dict[str, Any] = {name: reader.positive(name) for name in names}
        masked = reader.values.get("masked", True)
        if not isinstance(masked, bool):
            raise BundleError(f"{reader.source}: model.masked is {masked!r}; it must be true or false.")
        codebook = reader.reader("codebook")
        for name in _CODEBOOK:
            codebook.reader(name).get("file", str)
        tail = reader.get("tail", int)
        if not 0 <= tail <= sizes["depth"]:
            raise BundleError(f"{reader.source}: model.tail is {tail}; it must be 0 to the depth {sizes['depth']}.")
        try:
            sides = Scales(reader.get("patch_nums", list)).sides
        except ConfigError as error:
            raise BundleError(f"{reader.source}: model.{error}") from error
        return ModelInfo(sides, **sizes, tail=tail, masked=masked)

    def read_sampling(self, top: Reader) -> dict[str, SamplingConfig]:
        """See RuntimeFamily.read_sampling."""
        return read_settings(SamplingConfig, top)

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
        """See RuntimeFamily.choose_sampling."""
        given = changes if guidance is None else {**changes, "guidance": guidance}
        chosen = choose_sampling(named, sampling, given)
        model.check_sampling(chosen)
        return chosen

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
        if guidance and not shown:
            raise InputError(
                f"guidance is {guidance:g}, but no class is given, and without one nothing guides an edit; give a "
                f"class, or leave guidance out."
            )
        return edit_sampling(self.choose_sampling(model, named, sampling, guidance, changes), shown)

    def dilation(self, asked: int | None) -> int:
        """Refuse rings: see RuntimeFamily.dilation."""
        if asked:
            raise InputError(
                f"dilation is {asked}, but an HMAR model draws a ring around the mask at its fine scales by itself; "
                f"leave it out."
            )
        return 0

    def edit_kinds(self, model: ModelInfo, edit: Edit) -> Sequence[object]:
        """See RuntimeFamily.edit_kinds: images with any masks run together."""
        return [None] * len(edit)

    def draws(self, seed: int) -> Draws:
        """See RuntimeFamily.draws."""
        return PhiloxDraws(seed)

    def image_draws(self, seeds: Sequence[int], indices: Sequence[int]) -> Draws:
        """See RuntimeFamily.image_draws."""
        return ImageDraws(seeds, indices)

    def steps(self, model: ModelInfo, sampling: SamplingConfig, edit: Edit | None = None) -> int:
        """See RuntimeFamily.steps: a report for every scale."""
        return len(model.scales)

    def shown(self, model: ModelInfo, sampling: SamplingConfig, edit: Edit | None = None) -> range:
        """See RuntimeFamily.shown: after every scale but the last."""
        return range(1, len(model.scales))

    def no_images(self, model: ModelInfo) -> Generated:
        """See RuntimeFamily.no_images."""
        side = model.scales.side
        return Generated(
            np.zeros((0, model.latent_channels, side, side), np.float32),
            np.zeros((0, model.img_size, model.img_size, 3), np.uint8),
            {"codes": np.zeros((0, model.scales.tokens), np.int64)},
        )

    def first_needed(self, manifest: Manifest) -> tuple[str, ...]:
        """See RuntimeFamily.first_needed: what sees all scales, where the setting does."""
        default: SamplingConfig = next(iter(manifest.sampling.values()))
        return (VAR_TRUNK, VAR_TAIL) if default.all_scales else ()

    def resident_bytes(self, manifest: Manifest) -> int:
        """See RuntimeFamily.resident_bytes."""
        from .resident.buffers import buffer_sizes, vector_sizes
        from .resident.past import past_sizes

        model, batch = hmar_model(manifest), manifest.max_batch
        if CONDITIONS not in manifest.components:
            return 0  # what loads the bundle refuses it soon
        sizes = [buffer_sizes(model, batch), vector_sizes(manifest.components[CONDITIONS], 2 * batch)]
        if self.first_needed(manifest):
            sizes.append(past_sizes(model, 2 * batch))
        return sum(sum(each.values()) for each in sizes)

    def runner(self, bundle: Bundle, networks: Networks) -> Runner:
        """Return the resident loop where the engines have a GPU lane, else the loop on the host, saying why."""
        model, book = hmar_model(bundle.manifest), load_codebook(bundle)
        if networks.lane is None:
            return HostRunner(networks, model, book)
        from .resident.runner import ResidentRunner

        try:
            return ResidentRunner(networks, networks.lane, model, book, bundle.manifest.max_batch)
        except EngineError as error:
            log.warning("the loop runs on the host, not on the GPU: %s", error)
            return HostRunner(networks, model, book)


FAMILY = HmarFamily()


def hmar_model(manifest: Manifest) -> ModelInfo:
    """Return the sizes of a bundle's model; InputError when it is of another family."""
    if not isinstance(manifest.model, ModelInfo):
        raise InputError(f"this bundle's model is of the family {manifest.family!r}, and this works on 'hmar' alone.")
    return manifest.model
