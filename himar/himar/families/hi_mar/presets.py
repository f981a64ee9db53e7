"""Names model sizes, and the paper's variants of a model: what guides phase high, which heads, which scale vector.

What the paper's table 5 says of its six models is a line of words and a rounded parameter count each. What follows
from both, and from the released weights, is in `VARIANTS`:

* single scale is MAR: one phase, one mask token for all positions, no scale vector. MAR's published sizes come out
  exactly (207.9, 478.3, 942.4 M).
* pivots "visual" guide phase high by the low tokens themselves, through `cond_proj`; "condition" by the transformer's
  z at the low positions, through a projection of their own, `cond_z_proj`.
* a second head has the sizes of the first of its kind; both kinds keep the sizes that the released model gives them.
* without a scale vector the phases keep position tables of their own but share the L mask tokens. With a mask table
  per phase, as the released weights have it, the third row would have 245.5 M and round to 246 instead of 245.
* the scale vector of the sixth row is not the released one: that adds 5.0 M, the row 9 M. A sinusoidal embedding
  with two linear layers for encoder and decoder each, and shift, scale and gate (6·D instead of 4·D) per branch, is
  what the paper's text describes, and it adds 9.1 M ("sinusoidal"; gates start at zero). The released model
  ("learned") has an MLP head in phase low and 244.5 M, so it is none of the six rows.

Open: other divisions of the same parameters round to the same counts, for example one embedding shared by encoder
and decoder with a larger table per block; whether row 2 keeps an unused `cond_z_proj` (245.3 M) cannot be told.

`himar-s` makes images from text. The paper gives its steps and says that it is comparable with U-ViT-S/2 Deep (17
blocks of width 512, 8 heads, 58.35 M parameters); no sizes, code or weights were published. All its other numbers, and
the guidance to begin with, are our choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from himar_kernels import ConfigError
from himar_kernels.families.hi_mar.sampling import in_phases

Values = Mapping[str, Any]

VARIANTS: Mapping[str, Values] = {
    "single-scale": {"pivots": "none", "cond_scale": 0, "high_head": "mlp", "scale_vector": "none"},
    "visual": {"pivots": "visual", "low_head": "mlp", "high_head": "mlp", "scale_vector": "none"},
    "condition": {"pivots": "condition", "low_head": "mlp", "high_head": "mlp", "scale_vector": "none"},
    "dit-high": {"pivots": "condition", "low_head": "mlp", "high_head": "dit", "scale_vector": "none"},
    "dit-both": {"pivots": "condition", "low_head": "dit", "high_head": "dit", "scale_vector": "none"},
    "scale-vector": {"pivots": "condition", "low_head": "dit", "high_head": "dit", "scale_vector": "sinusoidal"},
}
"""The rows of the paper's table 5, in its order."""


def vary(values: Values, variant: str) -> dict[str, Any]:
    """Return a configuration's values as one of `VARIANTS`, at the same sizes. Raises ConfigError for another name."""
    if variant not in VARIANTS:
        raise ConfigError(f"variant {variant!r} is unknown; the variants are {', '.join(VARIANTS)}.")
    return {**values, **VARIANTS[variant]}


_IMAGENET = {"classes": 1000, "buffer": 64, "cond_scale": 8, "img_size": 256, "channels": 16}


# What a chain of 100 and of 250 diffusion steps leaves out: docs/forecast.md.
_FORECAST = {"low_forecast": 4, "high_forecast": 6, "guidance_interval": 3}


def _paper(low_guidance: float, high_guidance: float, high_steps: int) -> dict[str, Any]:
    """The paper's sampling, the same with forecasts, and with fewer diffusion steps where more is known too."""
    paper = {"low_guidance": low_guidance, "high_guidance": high_guidance, "high_steps": high_steps}
    counts = falling_counts(250, 50, high_steps)
    return {
        "paper": paper,
        "forecast": {**paper, **_FORECAST},
        "fast": {**paper, **_FORECAST, "high_diffusion_counts": counts},
    }


def falling_counts(early: int, late: int, steps: int) -> list[int]:
    """Return a chain length for each of K autoregressive steps: n_late + ⌊(K-1-k)/(K-1)·(n_early - n_late)⌋.

    DiSA (arXiv 2505.20297) has them fall where more is known: early to late, K ≥ 2.
    """
    return [late + (steps - 1 - k) * (early - late) // (steps - 1) for k in range(steps)]


def _mar(guidance: float) -> dict[str, Any]:
    """MAR's own sampling: one token per step, its chain of 100 diffusion steps; and the same with forecasts."""
    paper = {"high_guidance": guidance, "high_steps": 256, "high_diffusion_steps": 100}
    return {"paper": paper, "forecast": {**paper, "high_forecast": 4, "guidance_interval": 3}}


_DIT_B = {"dit_depth": 6, "dit_width": 512, "dit_heads": 8}
_MAR_B = {
    **_IMAGENET,
    **{"width": 768, "enc_depth": 12, "dec_depth": 12, "heads": 12, "mlp_depth": 6, "mlp_width": 1024},
}
_MAR_L = {
    **_IMAGENET,
    **{"width": 1024, "enc_depth": 16, "dec_depth": 16, "heads": 16, "mlp_depth": 8, "mlp_width": 1280},
}
_MAR_H = {
    **_IMAGENET,
    **{"width": 1280, "enc_depth": 20, "dec_depth": 20, "heads": 16, "mlp_depth": 12, "mlp_width": 1536},
}
_HIMAR_B = {**_MAR_B, **_DIT_B, "sampling": _paper(2.7, 2.5, 4)}

# 77 × 768 is what CLIP ViT-L/14's text tower gives, the tower of the paper.
_HIMAR_S = {
    **{"context": "text", "buffer": 77, "context_width": 768, "cond_scale": 8, "img_size": 256, "channels": 16},
    **{"width": 512, "enc_depth": 6, "dec_depth": 7, "heads": 8, "mlp_depth": 3, "mlp_width": 512},
    **{"dit_depth": 3, "dit_width": 384, "dit_heads": 6},
    "sampling": {"default": {"low_guidance": 2.0, "high_guidance": 2.0, "low_steps": 32, "high_steps": 4}},
}

_DIGITS_GUIDANCE = {"low_guidance": 2.0, "high_guidance": 2.0, "guidance_schedule": "constant"}
_DIGITS_PAPER = {"low_steps": 8, "high_steps": 2, "temperature": 0.85}

# Sizes: docs/model.md §1; sampling: §6; of himar-s: §11.
PRESETS: Mapping[str, Values] = {
    "himar-s": _HIMAR_S,
    "himar-b": _HIMAR_B,
    "himar-l": {**_MAR_L, "dit_depth": 8, "dit_width": 512, "dit_heads": 8, "sampling": _paper(3.5, 3.5, 4)},
    "himar-h": {**_MAR_H, "dit_depth": 12, "dit_width": 768, "dit_heads": 12, "sampling": _paper(5.5, 3.2, 12)},
    "mar-b": {**vary(_MAR_B, "single-scale"), "sampling": _mar(2.9)},
    "mar-l": {**vary(_MAR_L, "single-scale"), "sampling": _mar(3.0)},
    "mar-h": {**vary(_MAR_H, "single-scale"), "sampling": _mar(3.2)},
    # Table 5's rows; the first is mar-b.
    **{f"himar-b-{name}": vary(_HIMAR_B, name) for name in VARIANTS if name != "single-scale"},
    # scikit-learn's handwritten digits as 32x32 images; trained on a CPU, shipped in himar/himar/weights.
    "digits": {
        **{"width": 64, "enc_depth": 2, "dec_depth": 2, "heads": 2, "classes": 10, "buffer": 4},
        **{"cond_scale": 4, "img_size": 32, "vae_stride": 4, "vae_scale": 0.95, "channels": 4},
        **{"mlp_depth": 3, "mlp_width": 96, "dit_depth": 3, "dit_width": 64, "dit_heads": 2},
        "sampling": {
            "default": {
                **_DIGITS_GUIDANCE,
                **{"low_steps": 8, "high_steps": 2, **in_phases("low", "high", diffusion_steps=32)},
                "temperature": 0.85,
            },
            # The released models' chains, and the same with forecasts, a sixth of the work: docs/forecast.md.
            "paper": {**_DIGITS_GUIDANCE, **_DIGITS_PAPER},
            "forecast": {**_DIGITS_GUIDANCE, **_DIGITS_PAPER, **_FORECAST},
            # A fifth of the default's work: docs/solvers.md.
            "fast": {
                **_DIGITS_GUIDANCE,
                **{"low_steps": 4, "high_steps": 2, **in_phases("low", "high", diffusion_steps=4)},
                **in_phases("low", "high", solver="dpm++"),
            },
        },
    },
    # Coloured digits from captions (docs/scenes.md), with a text tower of its own; trained and shipped as the digits.
    "himar-scenes": {
        **{"context": "text", "buffer": 16, "context_width": 96, "cond_scale": 2, "img_size": 32, "channels": 16},
        **{"width": 96, "enc_depth": 2, "dec_depth": 3, "heads": 4, "vae_stride": 8, "vae_scale": 0.95},
        **{"mlp_depth": 3, "mlp_width": 192, "dit_depth": 3, "dit_width": 128, "dit_heads": 4},
        "sampling": {
            "default": {
                **_DIGITS_GUIDANCE,
                **{"low_steps": 4, "high_steps": 2, **in_phases("low", "high", diffusion_steps=8)},
                **in_phases("low", "high", solver="dpm++"),
            },
        },
    },
}
