"""The shipped digits models by family, and images of any digits model from the eager sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.studies.measure import WEIGHTS
from himar.family import model_family, open_model

SHIPPED = {"hi_mar": WEIGHTS / "digits.safetensors", "hmar": WEIGHTS / "hmar-digits.safetensors"}


def eager_images(
    weights: Path,
    labels: Sequence[int],
    seed: int = 0,
    *,
    guidance: float | None = None,
    changes: Mapping[str, Any] | None = None,
) -> NDArray[np.uint8]:
    """Sample one image per label, uint8 (n, 32, 32, 3), at the model's default settings but for what is changed.

    Its autoencoder is NAME-vae.safetensors beside it, or else the shipped one of its family.
    """
    model, _ = open_model(weights)
    family = model_family(model.family)
    candidates = (each.with_name(f"{each.stem}-vae.safetensors") for each in (weights, SHIPPED[model.family]))
    vae = family.load_vae(next(path for path in candidates if path.exists()), model)
    sampling = family.choose_sampling(model, None, guidance, changes or {}, f"the model of {weights}")
    return family.images(model, vae, labels, seed=seed, sampling=sampling)
