"""Extracts features of digits: a small classifier of real ones replaces Inception's weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from himar_kernels import CheckpointError, InputError
from himar_kernels.shared.files import file_sha256

from ..data.digits import IMAGE_SIZE
from ..device import full_precision, usable_device
from ..loading.files import read_state
from .extractor import Features

DIGITS_WEIGHTS = Path(__file__).parents[1] / "weights" / "digits-features.safetensors"
_SPATIAL_CHANNELS = 7


class DigitNetwork(nn.Module):
    """Two convolutions and two linear layers: grey digits (B, 1, 16, 16) in [-1, 1] -> one of ten."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc1 = nn.Linear(32 * 4 * 4, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return pool (B, 64), spatial (B, 4·4·7: rows, columns, channels) and logits (B, 10)."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        spatial = x[:, :_SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        pool = F.relu(self.fc1(x.flatten(1)))
        return pool, spatial, self.fc2(pool)


def load_digit_network(file: Path = DIGITS_WEIGHTS) -> DigitNetwork:
    """Load the shipped weights, frozen. Raises CheckpointError when they are missing or of another network."""
    state, _ = read_state(file, key=None)
    network = DigitNetwork()
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{file} does not hold the digits classifier; install himar again.") from error
    return network.eval().requires_grad_(False)


class DigitsExtractor:
    """Features of 32×32 digits. The shipped weights make its numbers the same everywhere."""

    name = "digits classifier"

    def __init__(self, file: Path = DIGITS_WEIGHTS, device: str = "cpu") -> None:
        """Load the weights. Raises CheckpointError when they are missing or of another network."""
        self._network = load_digit_network(file)
        self._device = usable_device(device)
        self._network.to(self._device)
        self.sha256 = file_sha256(file)

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.uint8]) -> Features:
        """Images (m, 32, 32, 3) uint8 RGB -> features. Raises InputError for another size or type."""
        if images.dtype != np.uint8 or images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE, 3):
            raise InputError(
                f"images are {images.dtype} {images.shape}; the digits classifier takes uint8 "
                f"(m, {IMAGE_SIZE}, {IMAGE_SIZE}, 3)."
            )
        pixels = torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2).float() / 127.5 - 1
        with full_precision():
            pool, spatial, logits = self._network(shrink(pixels))
        return Features(*(part.cpu().numpy() for part in (pool, spatial, logits.softmax(dim=1))))


def shrink(images: Tensor) -> Tensor:
    """Images (B, 3, 32, 32) -> what the network sees (B, 1, 16, 16): grey, averaged over 2×2 pixels."""
    return F.avg_pool2d(images.mean(dim=1, keepdim=True), 2)
