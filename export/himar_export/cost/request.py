"""Turns what a user names, a bundle or a configuration, into the request whose cost is counted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from himar.families.configuration import find_family
from himar_kernels import ConfigError, InputError
from himar_kernels.families.registry import FAMILIES, VAE_DECODER
from himar_kernels.shared.console import require_extra
from himar_runtime import Bundle

from ..families.cost import family_cost
from ..graph.precision_choice import precision_of
from .decoder import exported_decoder
from .run import CostRequest


def bundle_request(
    path: Path, batch: int, sampling_name: str | None, guidance: float | None, **changes: Any
) -> CostRequest:
    """Return the request of `batch` images from a bundle, in the precisions it was built in.

    changes: single values that replace those of the bundle's setting, None for unchanged. Raises BundleError,
    ConfigError for a model that the manifest does not describe whole, and InputError.
    """
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    if batch > manifest.max_batch:
        raise InputError(
            f"batch is {batch}, but the engines of {path} run up to {manifest.max_batch} images at once; "
            f"ask for 1 to {manifest.max_batch}."
        )
    family = family_cost(manifest.family)
    config = family.bundle_config(manifest, f"the manifest of {path}")
    decoder = None
    if VAE_DECODER in manifest.components:
        require_extra("export", "onnx")
        decoder = exported_decoder(bundle.path(manifest.components[VAE_DECODER].file))
    precision = {name: spec.precision for name, spec in manifest.components.items()}
    return family.request(
        config, "bundle", "this bundle's model", sampling_name, guidance, changes, batch, decoder, precision
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
) -> CostRequest:
    """Return the request of `batch` images from a preset or JSON file, without a bundle.

    vae: its checkpoint; None counts the decoder that is usual for the model (`FamilyCost.usual_decoder`).
    component_precision: of single components. Raises ConfigError and InputError.
    """
    family = family_cost(find_family(name, _describes))
    config = family.read_config(name)
    decoder = family.usual_decoder(config)
    if vae is not None:
        require_extra("export", "torch", "safetensors")
        decoder = family.checkpoint_decoder(vae, config)
    names = [*family.networks(config), *([] if decoder is None else [VAE_DECODER])]
    for component in component_precision:
        if component not in names:
            raise ConfigError(f"this model has no component {component!r}; its components are {', '.join(names)}.")
    precisions = {component: precision_of(component, precision, component_precision) for component in names}
    return family.request(
        config, "configuration", f"the model of {name}", sampling_name, guidance, changes, batch, decoder, precisions
    )


def _describes(family: str, keys: Any) -> bool:
    return bool(FAMILIES[family].cost) and family_cost(family).describes(keys)
