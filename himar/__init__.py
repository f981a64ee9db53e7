"""The reference model: Hi-MAR networks in PyTorch, checkpoints, the eager sampler, training.

Names are imported when they are first used, so that the `himar` command can say what to install where PyTorch is not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoints import load_checkpoint, save_checkpoint
    from .config import ModelConfig
    from .model import HiMAR
    from .presets import PRESETS
    from .sampler import generate
    from .vae import AutoencoderKL, load_vae

_ROOMS = {
    "PRESETS": "presets",
    "AutoencoderKL": "vae",
    "HiMAR": "model",
    "ModelConfig": "config",
    "generate": "sampler",
    "load_checkpoint": "checkpoints",
    "load_vae": "vae",
    "save_checkpoint": "checkpoints",
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
