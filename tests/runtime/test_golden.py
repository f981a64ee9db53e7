"""A recorded image asked for alone must be the released model's, as it is within its batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from closeness import RUN, assert_near

from himar_kernels import RecordedDraws, load_recording, recorded_request
from himar_runtime import Pipeline

RECORDING = Path(__file__).parents[1] / "golden" / "himar-narrow-128.npz"


@pytest.mark.parametrize("images", [slice(0, 3), slice(2, 3), slice(0, 2)])
def test_any_part_of_a_recorded_batch(narrow_128_bundle: Path, images: slice) -> None:
    arrays = load_recording(RECORDING)
    request = recorded_request(arrays, "guided")
    pipeline = Pipeline.load(narrow_128_bundle)
    result = pipeline.generate(
        request.labels[images],
        draws=RecordedDraws(arrays, "guided"),
        sampling=request.sampling,
        first_index=images.start,
    )
    scale = np.float32(pipeline.bundle.manifest.model.vae_scale)
    for found, wanted in (
        (result.low_latents * scale, request.low_latent[images]),
        (result.latents * scale, request.latent[images]),
    ):
        assert_near(found, wanted, RUN)
