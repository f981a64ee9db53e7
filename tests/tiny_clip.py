"""A tiny model from text with a text tower and a tokenizer of its own, all random, as files that a user would have."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from himar import save_checkpoint
from himar.families.hi_mar.model import randomise
from himar.text import TextConfig, TextTower, encode, save_text_tower
from himar_kernels.text import Tokenizer
from himar_kernels.text.vocabulary import MERGES_HEADER, Vocabulary
from tests.himar.tiny_text import K, W, build

# Single letters, then the words "red" and "two", a token each.
MERGES = (("r", "e"), ("re", "d</w>"), ("t", "w"), ("tw", "o</w>"))


def write_tower(folder: Path, positions: int = K, width: int = W, seed: int = 1) -> TextTower:
    """Write a tower and its tokenizer as a Hugging Face folder; return the tower."""
    folder.mkdir()
    vocabulary = Vocabulary(MERGES, positions, 2 * 256 + len(MERGES) + 1)
    (folder / "vocab.json").write_text(json.dumps(vocabulary.ids))
    (folder / "merges.txt").write_text("\n".join([MERGES_HEADER, *map(" ".join, MERGES)]) + "\n")
    torch.manual_seed(seed)
    sizes = {"layers": 2, "heads": 2, "hidden": 4 * width, "vocabulary": vocabulary.end + 1}
    tower = TextTower(TextConfig(width=width, positions=positions, **sizes)).eval().requires_grad_(False)
    for parameter in tower.parameters():
        parameter += 0.1 * torch.randn_like(parameter)  # so that every token and every weight matters
    save_text_tower(tower, folder)
    return tower


def write_model_and_tower(checkpoint: Path, folder: Path, seed: int = 5) -> None:
    """Write a tower, and a model from text that knows its context of the empty prompt."""
    tower = write_tower(folder)
    model = randomise(build(), seed).eval().requires_grad_(False)
    tokens, _ = Tokenizer.open(folder).ids([""])
    model.empty_context.copy_(encode(tower, tokens))
    for name, parameter in model.named_parameters():
        # So that what a network is told weighs as much as the state that it is given.
        if any(part in name for part in ("final_layer", "adaLN_modulation", "text_proj", "attn.proj", "cond_z_proj")):
            parameter *= 4
    save_checkpoint(model, checkpoint)
