"""Runs HMAR's loop on the host: the codebook out of the bundle, the engines wherever they live."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from himar_kernels import InputError
from himar_kernels.families.hmar import Codebook, Kept, SamplingConfig, edit_cells, encode_latent
from himar_kernels.families.hmar.sizes import VAR_TAIL, VAR_TRUNK, ModelInfo
from himar_kernels.families.registry import VAE_ENCODER
from himar_runtime.bundle.bundle import Bundle
from himar_runtime.decode import decode
from himar_runtime.encode import EditPreview, encode_edit
from himar_runtime.engines.engine import Engine
from himar_runtime.engines.networks import Networks
from himar_runtime.result import EVERY
from himar_runtime.runner import Generated, ShouldContinue

from .loop import Request, Step, run_scales


@dataclass(frozen=True)
class Preview:
    """A generation between two scales; see `himar_runtime.result.Progress`.

    latent: gives the latent so far, float32 (B, Cv, H, H). decoder: gives the tokenizer's decoder.
    """

    latent: Callable[[], NDArray[np.float32]]
    decoder: Callable[[], Engine]

    def low_latents(self, part: slice = EVERY) -> NDArray[np.float32]:
        """Refuse: HMAR has one latent, to which every scale adds."""
        raise InputError("this model's family has no low-resolution latents; use preview().")

    def preview(self, part: slice = EVERY) -> NDArray[np.uint8]:
        """Return the images uint8 (B, H, W, 3) that the scales so far make, in full size."""
        return decode(self.decoder(), self.latent()[part])

    def so_far(self, part: slice = EVERY) -> NDArray[np.uint8]:
        """See Progress.so_far."""
        return self.preview(part)


class HostRunner:
    """The loop on the host. See `himar_runtime.runner.Runner`."""

    def __init__(self, networks: Networks, model: ModelInfo, book: Codebook) -> None:
        self._networks, self._model, self._book = networks, model, book

    def run(self, request: Request, should_continue: ShouldContinue | None) -> Generated | None:
        """See Runner.run."""
        require_components(self._networks, request.sampling)
        decoder = self._networks.vae_decoder
        assert decoder is not None  # every bundle of the family has one

        def ask(step: Step, latent: NDArray[np.float32]) -> bool:
            if should_continue is None:
                return True
            preview = Preview(lambda: latent, lambda: decoder)
            return should_continue(step, EditPreview(preview, request.edit) if request.edit else preview)

        kept = self.kept(request)
        sampled = run_scales(self._networks, self._model, self._book, request, ask, kept=kept)
        if sampled is None:
            return None
        codes = (
            np.full((len(request.labels), self._model.scales.tokens), -1) if sampled.codes is None else sampled.codes
        )
        pixels = decode(decoder, sampled.latent)
        return Generated(sampled.latent, request.edit.paste(pixels) if request.edit else pixels, {"codes": codes})

    def kept(self, request: Request) -> Kept | None:
        """Return the codes of the images that are edited, and the cells to draw; None where whole images are made."""
        if request.edit is None:
            return None
        latent = encode_edit(self._networks[VAE_ENCODER], request.edit)
        scales = self._model.scales
        return Kept(encode_latent(self._book, scales, latent), edit_cells(request.edit.masks, scales))

    def clone(self) -> HostRunner:
        """See Runner.clone."""
        return HostRunner(self._networks.clone(), self._model, self._book)


def require_components(networks: Networks, sampling: SamplingConfig) -> None:
    """Raise InputError unless the bundle has the networks that these settings run."""
    for name in (VAR_TRUNK, VAR_TAIL):
        if sampling.all_scales and name not in networks.engines:
            raise InputError(
                f"all_scales is set, but this bundle has no component {name}; a model has it whose blocks are not all "
                f"in trunk or tail."
            )


def load_codebook(bundle: Bundle) -> Codebook:
    """Return the tokenizer's codebook out of a bundle; BundleError where it is not there."""
    entries = bundle.manifest.raw["model"]["codebook"]
    return Codebook(*(bundle.array(entries[name]).astype(np.float32) for name in ("embedding", "weights", "biases")))
