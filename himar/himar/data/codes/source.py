"""Opens what `--data` names as HMAR's codes: a cache of ours, a folder or a list of images."""

from __future__ import annotations

from pathlib import Path

from himar_kernels import ConfigError

from ...device import usable_device
from ...families.hmar.config import ModelConfig
from ...families.hmar.tokenizer.files import load_tokenizer
from ...families.hmar.tokenizer.network import Tokenizer
from ...loading.checkpoint_files import weights_sha256
from ..cache_index import INDEX_FILE
from ..folder import list_images
from ..opening import Opening, cache_notices, check_shared
from ..released_cache import refuse_released_cache
from .cache import CachedCodes
from .codes import Codes, check_fit
from .images import ImageCodes


def open_codes(source: Path, config: ModelConfig, vae: Path | None, opening: Opening) -> tuple[Codes, Tokenizer]:
    """Open a training's data and its tokenizer; every image file is read once before this returns.

    source: a folder of `himar cache-latents`, made with this tokenizer; a folder with one subfolder of images per
    class; or a list file. vae: the tokenizer's checkpoint, which the losses need too. Raises CacheError,
    CheckpointError, ConfigError or InputError when they are missing or do not fit the model.
    """
    if vae is None:
        raise ConfigError("HMAR trains on codes of a multi-scale tokenizer; give its checkpoint with --vae.")
    tokenizer = load_tokenizer(vae, config).to(usable_device(opening.device))
    if (source / INDEX_FILE).is_file():
        cached = CachedCodes(source, tokenizer.quantize, vae_sha256=weights_sha256(vae), scales=config.scales)
        for sentence in cache_notices(source, cached):
            opening.on_notice(sentence)
        return cached, tokenizer
    refuse_released_cache(source)
    files = list_images(source)
    codes = ImageCodes(files, tokenizer, config)
    check_fit(config, codes)
    opening.on_list(files)
    check_shared(codes, opening.processes, opening.checking)
    return codes, tokenizer
