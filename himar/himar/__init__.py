"""Holds the reference model: Hi-MAR networks in PyTorch, checkpoints, the eager sampler, training.

Names are imported when they are first used, so that the `himar` command can say what to install where PyTorch is not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .families.hi_mar.checkpoints import load_checkpoint, save_checkpoint
    from .families.hi_mar.config import ModelConfig
    from .families.hi_mar.model import HiMAR
    from .families.hi_mar.presets import PRESETS
    from .families.hi_mar.sampler import generate
    from .vae.autoencoder import AutoencoderKL
    from .vae.layouts import load_vae

_ROOMS = {
    "PRESETS": "families.hi_mar.presets",
    "AutoencoderKL": "vae.autoencoder",
    "HiMAR": "families.hi_mar.model",
    "ModelConfig": "families.hi_mar.config",
    "generate": "families.hi_mar.sampler",
    "load_checkpoint": "families.hi_mar.checkpoints",
    "load_vae": "vae.layouts",
    "save_checkpoint": "families.hi_mar.checkpoints",
}

__all__ = [
    "PRESETS",
    "AutoencoderKL",
    "HiMAR",
    "ModelConfig",
    "generate",
    "load_checkpoint",
    "load_vae",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'himar' has no attribute {name!r}")
    return getattr(import_module(f".{_ROOMS[name]}", __name__), name)
