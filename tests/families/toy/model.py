"""The toy family in PyTorch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from himar.images import to_pixels
from himar.loading.checkpoint_files import Weights
from himar.loading.files import write_safetensors
from himar_kernels import CheckpointError, ConfigError

CHANNELS, SIDE, SCALE = 3, 4, 2
PRESETS = {"toy": {"classes": 5}}


class Puller(nn.Module):
    """Moves latents (R, C, s, s) half of the way to their class's pattern."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.patterns = nn.Embedding(classes, CHANNELS * SIDE * SIDE)
        self.mix = nn.Linear(CHANNELS * SIDE * SIDE, CHANNELS * SIDE * SIDE)

    def forward(self, class_row: Tensor, latent: Tensor) -> Tensor:
        """class_row int64 (R,), latent (R, C, s, s) → (R, C, s, s)."""
        pattern = self.mix(self.patterns(class_row)).reshape(latent.shape)
        return (latent + pattern) / 2


class Toy(nn.Module):
    """Its loop is in the toy runtime; this is what a checkpoint holds."""

    family = "toy"
    class_names = None

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.config = {"classes": classes}
        self.puller = Puller(classes)
        self.decoder = nn.ConvTranspose2d(CHANNELS, 3, SCALE, SCALE)


class ToyFamily:
    """See himar.family.ModelFamily."""

    title, anchor = "toy", "puller.patterns.weight"

    def recognises(self, names: Collection[str]) -> bool:
        """See ModelFamily."""
        return self.anchor in names

    def model_from(self, read: Weights, path: Path, config: Any) -> Toy:
        """See ModelFamily."""
        model = Toy(len(read.state[self.anchor]))
        try:
            model.load_state_dict(read.state)
        except RuntimeError as error:
            raise CheckpointError(f"{path} is not a toy checkpoint: {error}.") from error
        return model.eval().requires_grad_(False)

    def describes(self, keys: Collection[str]) -> bool:
        """See ModelFamily."""
        return "puller" in keys

    def random(self, config: str | Path, seed: int) -> tuple[Toy, None]:
        """See ModelFamily."""
        torch.manual_seed(seed)
        return Toy(**PRESETS[str(config)]), None

    def save(self, path: Path, model: nn.Module, dtype: torch.dtype) -> None:
        """See ModelFamily."""
        write_safetensors(path, {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}, {})

    def choose_sampling(self, model: Toy, sampling: Any, guidance: Any, changes: Any, holder: str) -> None:
        """See ModelFamily; a toy is sampled without noise."""

    sampling_from_dict = choose_sampling

    def images(self, model: Toy, vae: None, labels: Sequence[int], **settings: Any) -> np.ndarray:
        """See ModelFamily."""
        latent = torch.zeros(len(labels), CHANNELS, SIDE, SIDE)
        for _ in range(3):
            latent = model.puller(torch.tensor(labels), latent)
        return to_pixels(model.decoder(latent))

    def load_vae(self, path: Path, model: Toy) -> nn.Module:
        """See ModelFamily."""
        raise ConfigError(f"{path} is given, but a toy model has its own decoder; leave --vae out.")


FAMILY = ToyFamily()


def toy_checkpoint(path: Path, classes: int = 5) -> Path:
    """Write a checkpoint with random weights."""
    torch.manual_seed(0)
    torch.save({"model": Toy(classes).state_dict()}, path)
    return path
