"""Tiny models from text, one per variant, and contexts for them."""

import json
from pathlib import Path

import torch

from himar.data.captioned.latents import CaptionedSet
from himar.families.hi_mar.config import read_config, resolve
from himar.families.hi_mar.joint import JointConfig, join
from himar.families.hi_mar.model import HiMAR
from himar.families.hi_mar.presets import vary
from himar.text import TextConfig, TextTower, save_text_tower
from himar_kernels.text.files import write_vocabulary
from himar_kernels.text.training import LEAST_SIZE, train_vocabulary

K, W = 5, 12
SIZES = {
    "context": "text", "context_width": W, "width": 32, "enc_depth": 1, "dec_depth": 1, "heads": 2, "buffer": K,
    "cond_scale": 2, "img_size": 16, "vae_stride": 4, "vae_scale": 0.95, "channels": 4,
    "mlp_depth": 1, "mlp_width": 32, "dit_depth": 1, "dit_width": 32, "dit_heads": 2,
    "sampling": {"low_steps": 2, "high_steps": 3, "low_guidance": 2.0, "high_guidance": 2.0,
                 "low_diffusion_steps": 4, "high_diffusion_steps": 4},
}  # fmt: skip

TOWER = TextConfig(W, layers=2, heads=2, hidden=24, vocabulary=20, positions=K)
EMPTY = torch.tensor([18, 19, 19, 19, 19])
"""Of a tower that is trained with a model: its sizes, and the tokens of the empty text."""


def build(variant: str | None = None) -> HiMAR:
    return HiMAR(resolve(read_config(SIZES if variant is None else vary(SIZES, variant)), {}))


def contexts(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, K, W, generator=torch.Generator().manual_seed(seed))


def captioned(images: int = 24, texts: torch.Tensor | None = None, empty: torch.Tensor | None = None) -> CaptionedSet:
    """Latents of images with one, two or three captions in turn."""
    generator = torch.Generator().manual_seed(0)
    high = torch.randn(images, 2, 4, 4, 4, generator=generator)
    low = torch.randn(images, 2, 4, 2, 2, generator=generator)
    high[:, 1], low[:, 1] = 0.1, 0.1
    first = torch.cat([torch.zeros(1, dtype=torch.int64), (torch.arange(images) % 3 + 1).cumsum(0)])
    texts = contexts(int(first[-1]), seed=1) if texts is None else texts
    return CaptionedSet(high, low, texts, first, contexts(1, seed=2)[0] if empty is None else empty)


TEXTS = ("a red three", "a blue seven on the left", "two green ones above a red one", "")


def write_text_folder(folder: Path, width: int = W, length: int = K, merges: int = 6, tokens: int = 0) -> Path:
    """Write a folder with a small tower and a tokenizer for it; tokens: more of them for the tower alone."""
    vocabulary = train_vocabulary(TEXTS, LEAST_SIZE + merges, length)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        size = vocabulary.end + 1 + tokens
        tower = TextTower(TextConfig(width, layers=1, heads=2, hidden=16, vocabulary=size, positions=length))
    save_text_tower(tower, folder)
    write_vocabulary(vocabulary, folder)
    for name in ("vocab.json", "merges.txt"):
        (folder / "tokenizer" / name).rename(folder / name)
    (folder / "tokenizer").rmdir()
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": length, **special}))
    return folder


def ids(count: int = 48) -> torch.Tensor:
    rows = torch.randint(18, (count, K), generator=torch.Generator().manual_seed(1))
    rows[:, 0], rows[:, -1] = 18, 19
    return rows


def joint_data() -> CaptionedSet:
    return captioned(texts=ids(), empty=EMPTY)


def joint() -> JointConfig:
    return join(build().config, TOWER, EMPTY)
