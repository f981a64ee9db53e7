"""Hi-MAR as `inspect --cost` knows it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from himar.families.hi_mar.config import ModelConfig, read_config, resolve
from himar_export.cost.decoder import DecoderSizes
from himar_kernels.families.hi_mar.sampling import choose_sampling
from himar_runtime import Manifest
from himar_runtime.families.hi_mar.family import require_phases

from .networks import runtime_model
from .request import HiMarRequest

KL16 = DecoderSizes()


class HiMarCost:
    """See `himar_export.families.cost.FamilyCost`."""

    def describes(self, keys: Collection[str]) -> bool:
        """See FamilyCost.describes."""
        return "cond_scale" in keys

    def read_config(self, name: str) -> ModelConfig:
        """See FamilyCost.read_config."""
        return resolve(read_config(name), {}, name)

    def bundle_config(self, manifest: Manifest, source: str) -> ModelConfig:
        """See FamilyCost.bundle_config."""
        known = {field.name for field in fields(ModelConfig)} - {"sampling"}
        values = {key: value for key, value in manifest.raw["model"].items() if key in known}
        config = resolve({**values, "sampling": {}}, {}, source)
        return replace(config, sampling=manifest.sampling)

    def networks(self, config: ModelConfig) -> tuple[str, ...]:
        """See FamilyCost.networks."""
        return tuple(runtime_model(config).networks)

    def usual_decoder(self, config: ModelConfig) -> DecoderSizes | None:
        """See FamilyCost.usual_decoder: KL-16's where the tokens are its own, of 16 channels and 16 pixels a side."""
        return KL16 if (config.channels, config.vae_stride) == (KL16.channels, KL16.stride) else None

    def checkpoint_decoder(self, path: Path, config: ModelConfig) -> DecoderSizes:
        """See FamilyCost.checkpoint_decoder."""
        from himar.vae.autoencoder import require_fit
        from himar.vae.layouts import load_vae

        vae = load_vae(path)
        require_fit(vae, config, str(path))
        shapes = {name: tuple(value.shape) for name, value in vae.state_dict().items()}
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
    ) -> HiMarRequest:
        """See FamilyCost.request."""
        sampling = choose_sampling(config.sampling, sampling_name, guidance, changes, holder)
        require_phases(runtime_model(config), sampling, changes, source)
        return HiMarRequest(config, sampling, batch, decoder, precision)


FAMILY = HiMarCost()
