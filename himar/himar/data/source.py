"""Opens what `--data` names as latents: a cache of ours or of the released code, a folder or a list of images."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from himar_kernels import ConfigError

from ..device import usable_device
from ..families.hi_mar.config import ModelConfig
from ..loading.checkpoint_files import weights_sha256
from ..training.processes import Processes
from ..training.state import is_same_data, saved_data
from ..vae.autoencoder import AutoencoderKL, load_vae, require_fit
from .cache_index import INDEX_FILE
from .cache_reader import CachedLatents
from .folder import ImageList, describe_classes, list_images, order_advice
from .images import ImageLatents
from .latents import Latents, check_fit, fingerprint
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
    checking: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> tuple[Latents, AutoencoderKL | None]:
    """Open a training's data and its VAE, where one is given; every image file is read once before this returns.

    Args:
        source: a folder of `himar cache-latents`, one of the released code's latents, a folder with one subfolder of
            images per class, or a list file. Images need the VAE; a cache of ours must have been made with it.
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
        cached = CachedLatents(source, vae_sha256=sha256, img_size=config.img_size)
        for sentence in _notices(source, cached):
            on_notice(sentence)
        return cached, decoder
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
    processes = processes or Processes()
    with checking() as on_files:
        latents.check(on_files, slice(processes.rank, None, processes.count))
    processes.wait()
    saved = saved_data(state) if state is not None and state.is_file() else {}
    if saved and former.class_names != files.class_names and not is_same_data(saved, fingerprint(latents)):
        before = opened(former)
        if is_same_data(saved, fingerprint(before)):
            on_notice(f"this training continues in the order in which it began: {order_advice(former.class_names)}")
            return before, decoder
    return latents, decoder


def _notices(source: Path, cached: CachedLatents) -> list[str]:
    advice = order_advice(cached.class_names)
    found = set(cached.labels.unique().tolist())
    empty = [f"{number} ({name})" for number, name in enumerate(cached.class_names) if number not in found]
    return [
        describe_classes(cached.class_names),
        *([f"{source}: {advice}"] if advice else []),
        *([f"{source} has no image of class {', '.join(empty[:3])}{', …' if len(empty) > 3 else ''}"] if empty else []),
    ]
