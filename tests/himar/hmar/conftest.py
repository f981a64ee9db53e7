"""Recorded models and what was recorded of them, read once per worker; none of the tests changes them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from himar.families.hmar.checkpoints import load_checkpoint
from himar.families.hmar.config import ModelConfig
from himar.families.hmar.model import HMAR, randomise
from himar.families.hmar.tokenizer.files import load_tokenizer
from himar.families.hmar.tokenizer.network import Tokenizer
from himar.families.hmar.tokenizer.sizes import TokenizerConfig
from himar_kernels.families.hmar import load_recording

GOLDEN = Path(__file__).parents[2] / "golden"
NAMES = ("hmar-narrow-144", "hmar-narrow-256")


class Recorded(NamedTuple):
    """A recorded model, its tokenizer and the arrays."""

    name: str
    model: HMAR
    tokenizer: Tokenizer
    arrays: dict[str, np.ndarray]


def read(name: str) -> Recorded:
    model = load_checkpoint(GOLDEN / f"{name}.pth", GOLDEN / f"{name}.json")
    tokenizer = load_tokenizer(GOLDEN / "hmar-vae-narrow.pth", model.config)
    return Recorded(name, model, tokenizer, load_recording(GOLDEN / f"{name}.npz"))


@pytest.fixture(scope="session")
def models() -> dict[str, Recorded]:
    return {name: read(name) for name in NAMES}


@pytest.fixture(scope="session")
def narrow(models) -> Recorded:
    """The smaller model, of five scales."""
    return models["hmar-narrow-144"]


@pytest.fixture(params=NAMES)
def recorded(request, models) -> Recorded:
    return models[request.param]


@pytest.fixture(scope="session")
def tiny() -> tuple[HMAR, Tokenizer]:
    """A model whose coarsest scale has four cells, and all of whose blocks exist twice."""
    sizes = {"width": 24, "depth": 2, "heads": 3, "tail": 2, "classes": 4, "vocab": 20, "latent_channels": 6}
    config = ModelConfig.from_dict({**sizes, "patch_nums": [2, 3, 5], "vae_groups": 4, "vae_stride": 2})
    torch.manual_seed(0)
    tokenizer = Tokenizer(TokenizerConfig(8, (1, 2), 6, 20, groups=4, num_res_blocks=1, attention_levels=()))
    return randomise(HMAR(config), seed=3).eval(), tokenizer.eval()


@pytest.fixture(scope="session")
def images() -> dict[str, np.ndarray]:
    """What was recorded of the tokenizer."""
    return load_recording(GOLDEN / "hmar-vae-narrow.npz")
