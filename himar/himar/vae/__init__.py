"""Implements the KL VAE between images and latents (docs/model.md §7)."""

from .autoencoder import AutoencoderKL, VaeConfig, require_fit
from .layouts import load_vae

__all__ = ["AutoencoderKL", "VaeConfig", "load_vae", "require_fit"]
