"""Named model sizes with the settings that they were released with (docs/hmar-model.md §1, §5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from himar_kernels.families.hmar import RELEASED_SCHEDULE, Schedule

Values = Mapping[str, Any]

SIDES: Mapping[int, tuple[int, ...]] = {
    256: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    512: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
    1024: (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64),
}
"""The released scale lists by the image's side in pixels; weights were released for 256 alone."""

BENCHMARK: Mapping[int, Schedule] = {
    256: ((1,), (1, 3), (1, 3, 5)),
    512: ((1,), (1, 3), (1, 1, 2, 5), (5, 11)),
    1024: ((1,), (1, 3), (1, 1, 2, 5), (3, 5, 8)),
}
"""Schedules of the released speed benchmark."""

_RELEASED = {"vocab": 4096, "latent_channels": 32, "vae_ch": 160, "vae_groups": 32, "tail": 8, "classes": 1000}
_DEFAULT = {"guidance": 1.5, "top_k": 900, "top_p": 0.96}
_DIGITS = {"guidance": 0.5, "top_k": 0, "top_p": 0.95, "schedule": ()}

# Depth: guidance and top_k of sampling, and of evaluation.
_SETTINGS: Mapping[int, tuple[tuple[float, int], tuple[float, int]]] = {
    16: ((1.7, 1000), (1.7, 1000)),
    20: ((1.9, 950), (1.9, 950)),
    24: ((2.1, 900), (2.1, 900)),
    30: ((1.7, 1000), (1.6, 650)),
}


def _model(depth: int, pixels: int) -> dict[str, Any]:
    benchmark = {**_DEFAULT, "schedule": BENCHMARK[pixels]}
    sampling: dict[str, Any] = {"benchmark": benchmark}
    if pixels == 256:
        named = zip(("sampling", "evaluation"), _SETTINGS[depth], strict=True)
        released = {
            name: {"guidance": guidance, "top_k": top_k, "top_p": 0.99, "schedule": RELEASED_SCHEDULE}
            for name, (guidance, top_k) in named
        }
        sampling = {**released, **sampling}
    sizes = {"depth": depth, "width": 64 * depth, "heads": depth}
    return {**_RELEASED, **sizes, "patch_nums": SIDES[pixels], "sampling": sampling}


PRESETS: Mapping[str, Values] = {
    **{
        f"hmar-d{depth}" + (f"-{pixels}" if pixels != 256 else ""): _model(depth, pixels)
        for pixels in SIDES
        for depth in _SETTINGS
    },
    # scikit-learn's handwritten digits as 32x32 images; trained on a CPU, shipped in himar/himar/weights.
    "hmar-digits": {
        **{"patch_nums": (1, 2, 3, 5, 8), "width": 64, "depth": 4, "heads": 2, "tail": 2, "classes": 10},
        **{"vocab": 256, "latent_channels": 8, "vae_ch": 8, "vae_groups": 4, "vae_stride": 4},
        # Masked steps do not make these digits better: docs/training.md.
        "sampling": {"default": _DIGITS, "refined": {**_DIGITS, "schedule": RELEASED_SCHEDULE}},
    },
}
"""Released sizes by depth; those with -512 and -1024 have the scale lists of larger images, for random weights."""
