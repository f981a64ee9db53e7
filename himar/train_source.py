"""From what `--data` names to latents: a cache, a folder or a list of images."""

from __future__ import annotations

from pathlib import Path

from himar_kernels import ConfigError

from .config import ModelConfig
from .device import usable_device
from .file_hash import weights_sha256
from .image_folder import list_images
from .latent_index import INDEX_FILE
from .latent_reader import CachedLatents
from .train_data import Latents
from .train_images import ImageLatents
from .vae import AutoencoderKL, load_vae, require_fit


def open_data(source: Path, config: ModelConfig, vae: Path | None, device: str) -> tuple[Latents, AutoencoderKL | None]:
    """Open a training's data and its VAE, where one is given.

    source: a folder of `himar cache-latents`, a folder with one subfolder of images per class, or a list file; images
    need the VAE, which runs on `device`; a cache must have been made with it.
    Raises CacheError, CheckpointError, ConfigError or InputError when they are missing or do not fit the model.
    """
    decoder = None
    if vae is not None:
        decoder = load_vae(vae).to(usable_device(device))
        require_fit(decoder, config, str(vae))
    if (source / INDEX_FILE).is_file():
        sha256 = None if vae is None else weights_sha256(vae)
        return CachedLatents(source, vae_sha256=sha256, img_size=config.img_size), decoder
    if decoder is None:
        raise ConfigError(f"{source} holds images, not latents: give --vae, or cache them with himar cache-latents.")
    return ImageLatents(list_images(source), decoder, config.img_size), decoder
