"""Runs Hi-MAR's loop in NumPy on the host; engines run one component at a time, wherever they live."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from himar_kernels import to_values
from himar_kernels.arithmetic.editing import Edit
from himar_kernels.arithmetic.resize import resized_values
from himar_kernels.families.hi_mar import Known, Phase, Step, drawn_positions
from himar_kernels.families.hi_mar.phases import ModelInfo
from himar_kernels.families.registry import VAE_ENCODER
from himar_runtime.decode import decode, to_latents
from himar_runtime.encode import EditPreview, encode, to_tokens
from himar_runtime.engines.networks import Networks
from himar_runtime.runner import Generated, ShouldContinue

from .loop import Request, run_two_phase
from .preview import Preview


class HostRunner:
    """The loop on the host. See `himar_runtime.runner.Runner`."""

    def __init__(self, networks: Networks, model: ModelInfo, empty: NDArray[np.float32] | None = None) -> None:
        """empty: context (K, W) of the empty prompt; None where images are of classes."""
        self._networks = networks
        self._model = model
        self._empty = empty

    def run(self, request: Request, should_continue: ShouldContinue | None) -> Generated | None:
        """See Runner.run."""
        decoder, edit = self._networks.vae_decoder, request.edit

        def ask(step: Step, tokens: Mapping[Phase, NDArray[np.float32]]) -> bool:
            if should_continue is None:
                return True
            high = tokens["high"].copy if step.phase == "high" else None
            preview = Preview(self._model, tokens["low"].copy, lambda: decoder, high)
            return should_continue(step, preview if edit is None else EditPreview(preview, edit))

        known = None if edit is None else known_tokens(self._networks, self._model, edit)
        tokens = run_two_phase(self._networks, self._model, request, ask, self._empty, known)
        if tokens is None:
            return None
        pixels = None if decoder is None else decode(decoder, to_latents(tokens.high, self._model.vae_scale))
        if edit is not None and pixels is not None:
            pixels = edit.paste(pixels)
        return generated(self._model, tokens.low, tokens.high, pixels)

    def clone(self) -> HostRunner:
        """See Runner.clone."""
        return HostRunner(self._networks.clone(), self._model, self._empty)


def known_tokens(networks: Networks, model: ModelInfo, edit: Edit) -> Known:
    """Return the tokens of an edit's images at both sizes, their holes filled, and which positions are drawn anew."""
    engine, filled = networks[VAE_ENCODER], edit.filled()
    low = np.zeros((len(edit), 0, model.channels), np.float32)
    if not model.single_scale:
        low = to_tokens(encode(engine, resized_values(filled, model.cond_scale * model.vae_stride)), model.vae_scale)
    high = to_tokens(encode(engine, to_values(filled)), model.vae_scale)
    return Known(drawn_positions(edit, model), {"low": low, "high": high})


def generated(
    model: ModelInfo, low: NDArray[np.float32], high: NDArray[np.float32], pixels: NDArray[np.uint8] | None
) -> Generated:
    """Return what a run leaves, of tokens times the VAE scale: low (B, S, C) and high (B, N, C)."""
    return Generated(to_latents(high, model.vae_scale), pixels, {"low_latents": to_latents(low, model.vae_scale)})
