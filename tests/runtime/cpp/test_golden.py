"""Recorded runs of released-layout models, replayed with their own draws, must come out of the C++ runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from himar_kernels.families.hi_mar import RecordedDraws, load_recording, recorded_request
from himar_runtime import Bundle
from tests.closeness import RUN, assert_near

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.mark.parametrize(
    ("size", "case"), [("128", "guided"), ("128", "constant"), ("128", "unguided"), ("256", "guided")]
)
def test_a_recorded_run(library: Any, request: pytest.FixtureRequest, size: str, case: str) -> None:
    bundle = request.getfixturevalue(f"narrow_{size}_bundle")
    arrays = load_recording(GOLDEN / f"himar-narrow-{size}.npz")
    recorded = recorded_request(arrays, case)
    draws = RecordedDraws(arrays, case)
    found = library.generate(bundle, recorded.labels.tolist(), draws, **recorded.sampling.to_dict())
    scale = np.float32(Bundle.open(bundle).manifest.model.vae_scale)
    for ours, theirs in ((found.low_latents, recorded.low_latent), (found.latents, recorded.latent)):
        assert_near(ours * scale, theirs, RUN)
