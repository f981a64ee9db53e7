"""Loads scikit-learn's handwritten digits as a small image set, and the classifier that measures generated ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from himar_kernels import InputError, to_uint8

IMAGE_SIZE = 32
_SOURCE_SIZE = 8
_HELD_OUT = 360
_SPLIT_SEED = 0


@dataclass(frozen=True)
class Digits:
    """Images (n, 3, size, size) float32 in [-1, 1], RGB with equal channels, and labels (n,) int64, 0 to 9."""

    images: Tensor
    labels: Tensor


def load_digits_split(size: int = IMAGE_SIZE) -> tuple[Digits, Digits]:
    """Return the 1,437 training digits and the 360 held-out ones, `size` pixels a side: always the same split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    train, held_out = train_test_split(
        np.arange(len(data.target)), test_size=_HELD_OUT, stratify=data.target, random_state=_SPLIT_SEED
    )
    small = torch.from_numpy(data.images).float()[:, None] / 16.0
    large = F.interpolate(small, size=size, mode="bicubic", align_corners=False)
    images = (large.clamp(0, 1) * 2 - 1).expand(-1, 3, -1, -1)
    labels = torch.from_numpy(data.target).long()
    return Digits(images[train], labels[train]), Digits(images[held_out], labels[held_out])


def half_size(images: Tensor) -> Tensor:
    """Images (n, 3, H, W) -> (n, 3, H/2, W/2), bicubic: what phase low sees (docs/model.md §8)."""
    size = (images.shape[-2] // 2, images.shape[-1] // 2)
    return F.interpolate(images, size=size, mode="bicubic", align_corners=False, antialias=True).clamp(-1, 1)


class DigitClassifier:
    """A support vector machine on 8×8 averages, fitted on the training digits only.

    It recognises 99 % of the held-out real digits, so it can judge generated ones.
    """

    def __init__(self) -> None:
        from sklearn.svm import SVC

        train, _ = load_digits_split()
        self._machine = SVC(kernel="rbf", C=10.0).fit(_features(to_uint8(train.images.numpy())), train.labels.numpy())

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Images (n, 32, 32, 3) uint8 -> the digit (n,) each shows most likely. Raises InputError."""
        return self._machine.predict(_features(images)).astype(np.int64)

    def accuracy(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> float:
        """Share (0 to 1) of images (n, 32, 32, 3) recognised as their label (n,). Raises InputError."""
        if len(images) != len(labels):
            raise InputError(f"{len(images)} images came with {len(labels)} labels; give one label per image.")
        return float(np.mean(self.predict(images) == labels))


def _features(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE, 3):
        raise InputError(
            f"digit images are {images.dtype} {images.shape}; they must be uint8 (n, {IMAGE_SIZE}, {IMAGE_SIZE}, 3)."
        )
    if not len(images):
        raise InputError("there are no digit images to recognise; give at least one.")
    block = IMAGE_SIZE // _SOURCE_SIZE
    cells = images.reshape(len(images), _SOURCE_SIZE, block, _SOURCE_SIZE, block, 3)
    return cells.mean(axis=(2, 4, 5)).reshape(len(images), -1) / 255.0
