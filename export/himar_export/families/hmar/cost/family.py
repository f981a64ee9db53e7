"""HMAR as `inspect --cost` knows it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from himar.families.hmar.config import ModelConfig, describes, read_config, resolve
from himar.families.hmar.tokenizer.sizes import tokenizer_of
from himar_export.cost.decoder import DecoderSizes
from himar_kernels.families.hmar.sampling import choose_sampling
from himar_kernels.families.hmar.sizes import CONDITIONS, MASKED_TAIL, NEXT_SCALE_TAIL, TRUNK, VAR_TAIL, VAR_TRUNK
from himar_runtime import Manifest

from .request import HmarRequest


class HmarCost:
    """See `himar_export.families.cost.FamilyCost`."""

    def describes(self, keys: Collection[str]) -> bool:
        """See FamilyCost.describes."""
        return describes(keys)

    def read_config(self, name: str) -> ModelConfig:
        """See FamilyCost.read_config."""
        return resolve(read_config(name), {}, name)

    def bundle_config(self, manifest: Manifest, source: str) -> ModelConfig:
        """See FamilyCost.bundle_config."""
        known = {field.name for field in fields(ModelConfig)} - {"sampling"}
        values = {key: value for key, value in manifest.raw["model"].items() if key in known}
        return replace(resolve(values, {}, source), sampling=manifest.sampling)

    def networks(self, config: ModelConfig) -> tuple[str, ...]:
        """See FamilyCost.networks."""
        masked = (MASKED_TAIL,) if config.masked else ()
        var = (VAR_TRUNK, VAR_TAIL) if 0 < config.tail < config.depth else ()
        return (CONDITIONS, TRUNK, NEXT_SCALE_TAIL, *masked, *var)

    def usual_decoder(self, config: ModelConfig) -> DecoderSizes:
        """See FamilyCost.usual_decoder: the tokenizer's that the configuration asks for."""
        sizes = tokenizer_of(config)
        return DecoderSizes(
            widths=sizes.widths,
            blocks=sizes.num_res_blocks + 1,
            channels=sizes.latent_channels,
            attention_levels=sizes.attention_levels,
            latent_kernel=3,
        )

    def checkpoint_decoder(self, path: Path, config: ModelConfig) -> DecoderSizes:
        """See FamilyCost.checkpoint_decoder."""
        from himar.families.hmar.tokenizer.files import load_tokenizer

        tokenizer = load_tokenizer(path, config)
        shapes = {name: tuple(value.shape) for name, value in tokenizer.state_dict().items()}
        return DecoderSizes.from_shapes(shapes, str(path))

    def request(
        self,
        config: ModelConfig,
        holder: str,
        source: str,
        sampling_name: str | None,
        guidance: float | None,
        changes: Mapping[str, Any],
        batch: int,
        decoder: DecoderSizes | None,
        precision: Mapping[str, str],
    ) -> HmarRequest:
        """See FamilyCost.request."""
        given = {**changes, "guidance": guidance}
        sampling = choose_sampling(config.sampling, sampling_name, given, holder)
        return HmarRequest(config, sampling, batch, decoder, precision)


FAMILY = HmarCost()
