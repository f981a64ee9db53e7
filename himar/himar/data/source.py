"""Opens what `--data` names as Hi-MAR's latents: a cache of ours or of the released code, or images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from himar_kernels import ConfigError, InputError

from ..device import usable_device
from ..families.hi_mar.config import ModelConfig
from ..loading.checkpoint_files import weights_sha256
from ..training.processes import Processes
from ..training.state import is_same_data, saved_data
from ..vae.autoencoder import AutoencoderKL, require_fit
from ..vae.layouts import load_vae
from ..vae.training import latent_moments
from .cache_index import INDEX_FILE
from .cache_reader import CachedLatents
from .captioned.cache import CachedCaptioned
from .crop import UnreadableImageError, check_image, read_crop
from .digits import half_size
from .file_check import OnFiles, require_readable
from .folder import ImageList, list_images, order_advice
from .latents import Latents, check_fit, fingerprint, sample_tokens
from .opening import Checking, cache_notices, check_shared
from .released_cache import ReleasedLatents, is_released_cache, list_released_cache


def open_data(
    source: Path,
    config: ModelConfig,
    vae: Path | None,
    device: str,
    *,
    processes: Processes | None = None,
    state: Path | None = None,
    on_notice: Callable[[str], None] = lambda text: None,
    on_list: Callable[[ImageList], None] = lambda images: None,
    checking: Checking = nullcontext,
) -> tuple[Latents, AutoencoderKL | None]:
    """Open a training's data and its VAE, where one is given; every image file is read once before this returns.

    Args:
        source: a folder of `himar cache-latents`, one of the released code's latents, a folder with one subfolder of
            images per class, or a list file. Images need the VAE; a cache of ours must have been made with it. For a
            model from text, a cache with captions.
        config: of the model that is trained.
        vae: KL-VAE checkpoint, which runs on `device`.
        processes: this one's place among those that share the reading.
        state: of a training that is resumed, if there is one: its classes keep their order.
        on_notice: gets a sentence on what a user should know.
        on_list: gets the images' list.
        checking: makes what shows the progress of reading them, a context of a callback of (done, all).

    Raises CacheError, CheckpointError, ConfigError or InputError when they are missing or do not fit the model.
    """
    decoder = None
    if vae is not None:
        decoder = load_vae(vae).to(usable_device(device))
        require_fit(decoder, config, str(vae))
    if (source / INDEX_FILE).is_file():
        sha256 = None if vae is None else weights_sha256(vae)
        if config.from_text:
            captioned = CachedCaptioned(source, vae_sha256=sha256, img_size=config.img_size)
            on_notice(f"{len(captioned)} images with {int(captioned.first[-1])} captions")
            return captioned, decoder
        cached = CachedLatents(source, vae_sha256=sha256, img_size=config.img_size)
        for sentence in cache_notices(source, cached):
            on_notice(sentence)
        return cached, decoder
    if config.from_text:
        raise ConfigError(
            f"{source} holds no {INDEX_FILE}, and a model from text trains on latents with captions; make them with "
            f"himar cache-latents --captions."
        )
    released = is_released_cache(source)
    if decoder is None and not released:
        raise ConfigError(f"{source} holds images, not latents: give --vae, or cache them with himar cache-latents.")
    files = list_released_cache(source) if released else list_images(source)

    def opened(files: ImageList) -> ImageLatents | ReleasedLatents:
        return (
            ReleasedLatents(files, config)
            if decoder is None or released
            else ImageLatents(files, decoder, config.img_size)
        )

    latents, former = opened(files), files.former()
    check_fit(config, latents)
    on_list(files)
    check_shared(latents, processes or Processes(), checking)
    saved = saved_data(state) if state is not None and state.is_file() else {}
    if saved and former.class_names != files.class_names and not is_same_data(saved, fingerprint(latents)):
        before = opened(former)
        if is_same_data(saved, fingerprint(before)):
            on_notice(f"this training continues in the order in which it began: {order_advice(former.class_names)}")
            return before, decoder
    return latents, decoder


class ImageLatents:
    """Reads, crops, mirrors and encodes the images of each step; `himar cache-latents` does it once for all steps.

    For data that is not worth a cache, or changes.
    In a training of several processes each encodes the whole batch: cache the latents for that.

    Args:
        images: files and classes.
        vae: encodes on its own device.
        img_size: side of the centre crop in pixels.
        flip: mirror each image with probability 1/2.
        readers: threads that decode images; None takes 4 while training, and one per core to check them all.
    """

    def __init__(
        self, images: ImageList, vae: AutoencoderKL, img_size: int, *, flip: bool = True, readers: int | None = None
    ) -> None:
        self._images, self._vae, self._size, self._flip = images, vae, img_size, flip
        self._pool = ThreadPoolExecutor(readers or 4)
        self._readers = readers
        self.class_names: Sequence[str] = images.class_names
        self.labels: Tensor = torch.tensor(images.labels)
        side, channels = img_size // vae.stride, vae.config.z_channels
        self.high_shape = (len(self.labels), 2, channels, side, side)
        self.low_shape = (len(self.labels), 2, channels, side // 2, side // 2)

    def check(self, on_files: OnFiles | None = None, part: slice = slice(None)) -> None:
        """Decode every image of a part. Raises InputError that names those that cannot be read."""
        paths = [self._images.path(index) for index in range(len(self._images.names))[part]]
        advice = "remove them, or let himar cache-latents leave them out"
        require_readable(paths, check_image, advice, on_files, self._readers)

    def draw(self, chosen: Tensor, scale: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Sample the chosen images' tokens (B, N, C) and (B, S, C), times the scale, with their labels (B,).

        Raises InputError, which names the file, when an image cannot be read.
        """
        mirrored = torch.rand(len(chosen), generator=generator) < (0.5 if self._flip else 0.0)
        crops = np.stack(list(self._pool.map(self._read, chosen.tolist())))
        device = next(self._vae.parameters()).device
        pixels = torch.from_numpy(crops).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        pixels = torch.where(mirrored.to(device)[:, None, None, None], pixels.flip(-1), pixels)
        high, low = (latent_moments(self._vae, part).cpu() for part in (pixels, half_size(pixels)))
        return sample_tokens(high, generator) * scale, sample_tokens(low, generator) * scale, self.labels[chosen]

    def _read(self, index: int) -> np.ndarray:
        path = self._images.path(index)
        try:
            return read_crop(path, self._size)
        except UnreadableImageError as error:
            raise InputError(
                f"{path} cannot be read: {error}; remove it, or let himar cache-latents leave out such files."
            ) from error
