"""Small text towers with random weights that all matter, and their folders with a tokenizer."""

from pathlib import Path

import torch

from himar.families.hi_mar.model import HiMAR, randomise
from himar.text import TextConfig, TextTower, encode, save_text_tower
from himar_kernels.text import Tokenizer
from himar_kernels.text.files import write_vocabulary
from himar_kernels.text.vocabulary import Vocabulary
from tests.himar import tiny_text

VOCABULARY = Vocabulary((("r", "e"), ("re", "d</w>"), ("t", "w"), ("tw", "o</w>")), tiny_text.K, 517)


def tower(activation: str = "quick_gelu", **sizes: int) -> TextTower:
    """Return a tower whose contexts fit the tiny models from text, but for `sizes`."""
    usual = {"width": tiny_text.W, "layers": 2, "heads": 2, "hidden": 32, "vocabulary": 518, "positions": tiny_text.K}
    torch.manual_seed(3)
    made = TextTower(TextConfig(**usual | sizes, activation=activation)).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(4)
    for parameter in made.parameters():
        parameter.copy_(parameter + 0.2 * torch.randn(parameter.shape, generator=generator))
    return made


def text_folder(folder: Path, made: TextTower | None = None, vocabulary: Vocabulary = VOCABULARY) -> Path:
    """Write a tower and a tokenizer as `build --text` takes them."""
    folder.mkdir()
    write_vocabulary(vocabulary, folder)
    for path in (folder / "tokenizer").iterdir():
        path.replace(folder / path.name)
    (folder / "tokenizer").rmdir()
    save_text_tower(made or tower(), folder)
    return folder


def text_model(made: TextTower) -> HiMAR:
    """Return a tiny model from text whose empty context is the tower's."""
    model = randomise(tiny_text.build(), 5).eval().requires_grad_(False)
    model.empty_context.copy_(encode(made, Tokenizer(VOCABULARY).ids([""])[0]))
    return model
