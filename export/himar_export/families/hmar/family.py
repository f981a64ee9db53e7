"""HMAR as export knows it: see each method's module for the work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from himar.families.hmar.model import HMAR
from himar.families.hmar.tokenizer import Tokenizer
from himar_export.families.checks import Arrays
from himar_export.graph.component import Component
from himar_export.graph.precision_choice import Precision
from himar_export.graph.vae_decoder import check_half_arithmetic
from himar_export.make.manifest import BundleWriter
from himar_export.verify.compare import Comparison
from himar_export.verify.limits import COMPONENT_LIMIT
from himar_kernels import ConfigError
from himar_kernels.families.hmar import PhiloxDraws
from himar_kernels.families.hmar.recording import recorded_request
from himar_kernels.families.registry import VAE_DECODER

from .components import components
from .record import record, record_tokenizer
from .tokenizer import DecoderGraph


class HmarFamily:
    """See `himar_export.families.family.ExportFamily`."""

    def manifest_keys(self, model: HMAR) -> tuple[dict[str, Any], str]:
        """See ExportFamily.manifest_keys."""
        values = model.config.to_dict()
        sampling = values.pop("sampling")
        return {"model": values, "sampling": sampling}, "3.0"

    def components(self, model: HMAR, vae: Tokenizer | None, max_batch: int, backend: str) -> tuple[Component, ...]:
        """See ExportFamily.components. Raises ConfigError without a tokenizer: the loop needs its codes."""
        return components(model, _needed(vae), max_batch, backend)

    def annotate(self, writer: BundleWriter, model: HMAR, vae: Tokenizer | None) -> None:
        """Store the codebook, with which the loop turns codes into the latent."""
        book = _needed(vae).codebook()
        arrays = {"embedding": book.embedding, "weights": book.weights, "biases": book.biases}
        writer.add_model_arrays("codebook", arrays)

    def record_selftest(self, model: HMAR, vae: Tokenizer | None, case: str) -> Arrays:
        """Record a guided run of two images with the model's own schedule, and what the encoder makes of one."""
        sampling = model.config.default_sampling
        if not sampling.guidance:
            sampling = sampling.with_changes(guidance=1.5)
        labels = [0, model.config.classes - 1]
        arrays = record(model, _needed(vae), labels, draws=PhiloxDraws(0), sampling=sampling, case=case)
        image = arrays[f"{case}/image_row0"][None]
        return {**arrays, **record_tokenizer(_needed(vae), np.rint(255 * image).astype(np.uint8))}

    def check_rounding(
        self, vae: Tokenizer | None, precisions: Mapping[str, Precision], selftest: Arrays
    ) -> list[Comparison]:
        """Check the decoder in half precision, whose convolutions ONNX Runtime computes in float32 on a CPU."""
        if (precision := precisions[VAE_DECODER]) == "fp32":
            return []
        latent = recorded_request(selftest, next(iter(selftest)).partition("/")[0]).f_hat[-1]
        limit = COMPONENT_LIMIT[precision]
        return [check_half_arithmetic(_needed(vae), precision, latent, limit, DecoderGraph)]


def _needed(vae: Tokenizer | None) -> Tokenizer:
    if vae is None:
        raise ConfigError("an HMAR bundle needs the tokenizer whose codes the model predicts; give it with --vae.")
    return vae


FAMILY = HmarFamily()
