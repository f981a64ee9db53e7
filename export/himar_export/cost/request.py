"""Turns what a user names, a bundle or a configuration, into the request whose cost is counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from himar.families.hi_mar.config import ModelConfig, read_config, resolve
from himar_kernels import ConfigError, InputError
from himar_kernels.families.hi_mar import SamplingConfig
from himar_kernels.families.hi_mar.phases import VAE_DECODER
from himar_kernels.families.hi_mar.sampling import choose_sampling
from himar_kernels.shared.console import require_extra
from himar_runtime import Bundle
from himar_runtime.families.hi_mar.family import require_phases

from ..graph.precision_choice import precision_of
from .decoder import DecoderSizes, checkpoint_decoder, exported_decoder
from .networks import runtime_model
from .run import Request

KL16 = DecoderSizes()


def bundle_request(
    path: Path, batch: int, sampling_name: str | None, guidance: float | None, **changes: Any
) -> Request:
    """Return the request of `batch` images from a bundle, in the precisions it was built in.

    changes: fields of SamplingConfig that replace those of the bundle's setting, None for unchanged. Raises
    BundleError, ConfigError for a model that the manifest does not describe whole, and InputError.
    """
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    if batch > manifest.max_batch:
        raise InputError(
            f"batch is {batch}, but the engines of {path} run up to {manifest.max_batch} images at once; "
            f"ask for 1 to {manifest.max_batch}."
        )
    known = {field.name for field in fields(ModelConfig)} - {"sampling"}
    values = {key: value for key, value in manifest.raw["model"].items() if key in known}
    config = resolve({**values, "sampling": {}}, {}, f"the manifest of {path}")
    config = replace(config, sampling=manifest.sampling)
    decoder = None
    if VAE_DECODER in manifest.components:
        require_extra("export", "onnx")
        decoder = exported_decoder(bundle.path(manifest.components[VAE_DECODER].file))
    return Request(
        config,
        _sampling(config, None, sampling_name, guidance, changes),
        batch,
        decoder,
        {name: spec.precision for name, spec in manifest.components.items()},
    )


def config_request(
    name: str,
    vae: Path | None,
    precision: str,
    component_precision: Mapping[str, str],
    batch: int,
    sampling_name: str | None,
    guidance: float | None,
    **changes: Any,
) -> Request:
    """Return the request of `batch` images from a preset or JSON file, without a bundle.

    vae: its checkpoint; None counts KL-16's decoder where the tokens are KL-16's (16 channels, 16 pixels a side), and
    none elsewhere. component_precision: of single components. Raises ConfigError and InputError.
    """
    config = resolve(read_config(name), {}, name)
    decoder = KL16 if (config.channels, config.vae_stride) == (KL16.channels, KL16.stride) else None
    if vae is not None:
        require_extra("export", "torch", "safetensors")
        decoder = checkpoint_decoder(vae, config)
    names = [*runtime_model(config).networks, *([] if decoder is None else [VAE_DECODER])]
    for component in component_precision:
        if component not in names:
            raise ConfigError(f"this model has no component {component!r}; its components are {', '.join(names)}.")
    return Request(
        config,
        _sampling(config, name, sampling_name, guidance, changes),
        batch,
        decoder,
        {component: precision_of(component, precision, component_precision) for component in names},
    )


def _sampling(
    config: ModelConfig, source: str | None, name: str | None, guidance: float | None, changes: Mapping[str, Any]
) -> SamplingConfig:
    """Return the settings of a request; source: of a configuration, None for a bundle, in an error's text."""
    holder, model = ("bundle", "this bundle's model") if source is None else ("configuration", f"the model of {source}")
    sampling = choose_sampling(config.sampling, name, guidance, changes, holder)
    require_phases(runtime_model(config), sampling, changes, model)
    return sampling
