"""Builds the Inception-v3 that FID is defined on (Szegedy et al. 2016; TensorFlow's graph of 2015-12-05)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from himar.device import full_precision, usable_device
from himar.evaluation.extractor import Features
from himar.loading.files import read_state
from himar_kernels import CheckpointError, InputError
from himar_kernels.shared.files import file_sha256

WEIGHTS_FILE = "pt_inception-2015-12-05-6726825d.pth"
# PyTorch's hub names a file by the first eight digits of its sha256.
PUBLISHED_SHA256 = "6726825d"
CLASSES = 1008
SIDE = 299
_SPATIAL_CHANNELS = 7


class InceptionV3(nn.Module):
    """Inception-v3 with FID's 1,008 classes and poolings, without the auxiliary classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, 3)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80, 1)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, 3)
        self.Mixed_5b = Mixed35(192, 32)
        self.Mixed_5c = Mixed35(256, 64)
        self.Mixed_5d = Mixed35(288, 64)
        self.Mixed_6a = Reduce35(288)
        self.Mixed_6b = Mixed17(128)
        self.Mixed_6c = Mixed17(160)
        self.Mixed_6d = Mixed17(160)
        self.Mixed_6e = Mixed17(192)
        self.Mixed_7a = Reduce17()
        self.Mixed_7b = Mixed8(1280, largest=False)
        self.Mixed_7c = Mixed8(2048, largest=True)
        self.fc = nn.Linear(2048, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Image (B, 3, 299, 299) in about [-1, 1] -> pool (B, 2048), spatial (B, 2023), probabilities (B, 1008).

        spatial: the first 7 of the 17×17 maps of Mixed_6d's 1×1 branch, as ADM's evaluator takes them ("mixed_6/conv"
        of the graph), rows, columns, then channels. The probabilities come from fc without its bias, as the inception
        score's first implementation and ADM's have it.
        """
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))
        x = self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x))))
        spatial = x[:, :_SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(self.Mixed_6e(x))))
        pool = x.mean(dim=(2, 3))
        return pool, spatial, F.linear(pool, self.fc.weight).softmax(dim=1)


class InceptionExtractor:
    """FID's features of images of any size."""

    def __init__(self, file: Path, device: str = "cpu") -> None:
        """Load the weights from `file`, safely. Raises CheckpointError when they are missing or of another network."""
        if not file.is_file():
            raise CheckpointError(
                f"{file} does not exist; give the FID weights {WEIGHTS_FILE}, which himar does not download."
            )
        state, _ = read_state(file, key=None)
        self._network = load_inception(state, str(file)).to(usable_device(device))
        self._device = next(self._network.parameters()).device
        self.sha256 = file_sha256(file)
        self.published = self.sha256.startswith(PUBLISHED_SHA256)
        self.name = "inception-v3 of 2015-12-05" if self.published else f"inception-v3 with the weights of {file.name}"

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.uint8]) -> Features:
        """Images (m, H, W, 3) uint8 RGB -> features. Raises InputError for another layout."""
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise InputError(f"images are {images.dtype} {images.shape}; they must be uint8 (m, H, W, 3).")
        pixels = torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2).float()
        with full_precision():
            parts = self._network((resize(pixels, SIDE) - 128) / 128)
        return Features(*(part.cpu().numpy() for part in parts))


def resize(images: Tensor, side: int) -> Tensor:
    """Bilinear resize of (B, C, H, W) to side × side as FID's graph does: output i reads from i·H/side, not centred."""
    for axis in (2, 3):
        length = images.shape[axis]
        places = torch.arange(side, device=images.device, dtype=torch.float32) * (length / side)
        lower = places.floor().long().clamp(max=length - 1)
        upper = (lower + 1).clamp(max=length - 1)
        share = (places - lower).view((-1, 1) if axis == 2 else (-1,))
        near = images.index_select(axis, lower)
        images = near + (images.index_select(axis, upper) - near) * share
    return images


def load_inception(state: Mapping[str, Tensor], source: str) -> InceptionV3:
    """Return the network with these weights, in float32, frozen. Raises CheckpointError when they are not its own."""
    with torch.device("meta"):
        network = InceptionV3()
    # Batch norm's step counter came into PyTorch after some copies of the file were made; inference does not use it.
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items() if not _counter(name)}
    found = {name: value for name, value in state.items() if not _counter(name)}
    for name in sorted(wanted.keys() ^ found.keys()):
        verb = "lacks" if name in wanted else "has an unknown"
        raise CheckpointError(f"{source} does not hold FID's Inception-v3: it {verb} {name}; give {WEIGHTS_FILE}.")
    for name, shape in wanted.items():
        if tuple(found[name].shape) != shape:
            raise CheckpointError(
                f"{source} does not hold FID's Inception-v3: {name} has shape {tuple(found[name].shape)} instead of "
                f"{shape}; give {WEIGHTS_FILE}."
            )
    complete = {name: found[name].float() if name in found else torch.tensor(0) for name in network.state_dict()}
    network.load_state_dict(complete, assign=True)
    return network.eval().requires_grad_(False)


def _counter(name: str) -> bool:
    return name.endswith(".num_batches_tracked")


class BasicConv2d(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activations."""
        return F.relu(self.bn(self.conv(x)))


class Mixed35(nn.Module):
    """35×35: 1×1, 5×5, double 3×3 and pooling branches, 224 + `pooled` channels."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(inputs, 64, 1)
        self.branch5x5_1 = BasicConv2d(inputs, 48, 1)
        self.branch5x5_2 = BasicConv2d(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = BasicConv2d(inputs, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, padding=1)
        self.branch_pool = BasicConv2d(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branches, one after another."""
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(average(x))], 1)


class Reduce35(nn.Module):
    """35×35 -> 17×17 with stride 2."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = BasicConv2d(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1 = BasicConv2d(inputs, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branches, one after another."""
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), three, F.max_pool2d(x, 3, 2)], 1)


class Mixed17(nn.Module):
    """17×17: 1×1, factored 7×7, double factored 7×7 and pooling branches of 192 channels each."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        row, column = {"kernel": (1, 7), "padding": (0, 3)}, {"kernel": (7, 1), "padding": (3, 0)}
        self.branch1x1 = BasicConv2d(768, 192, 1)
        self.branch7x7_1 = BasicConv2d(768, inner, 1)
        self.branch7x7_2 = BasicConv2d(inner, inner, **row)  # type: ignore[arg-type]
        self.branch7x7_3 = BasicConv2d(inner, 192, **column)  # type: ignore[arg-type]
        self.branch7x7dbl_1 = BasicConv2d(768, inner, 1)
        self.branch7x7dbl_2 = BasicConv2d(inner, inner, **column)  # type: ignore[arg-type]
        self.branch7x7dbl_3 = BasicConv2d(inner, inner, **row)  # type: ignore[arg-type]
        self.branch7x7dbl_4 = BasicConv2d(inner, inner, **column)  # type: ignore[arg-type]
        self.branch7x7dbl_5 = BasicConv2d(inner, 192, **row)  # type: ignore[arg-type]
        self.branch_pool = BasicConv2d(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branches, one after another."""
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(average(x))], 1)


class Reduce17(nn.Module):
    """17×17 -> 8×8 with stride 2."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = BasicConv2d(768, 192, 1)
        self.branch3x3_2 = BasicConv2d(192, 320, 3, stride=2)
        self.branch7x7x3_1 = BasicConv2d(768, 192, 1)
        self.branch7x7x3_2 = BasicConv2d(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = BasicConv2d(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = BasicConv2d(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branches, one after another."""
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_2(self.branch7x7x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(seven))
        return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)


class Mixed8(nn.Module):
    """8×8: 1×1, split 3×3, double 3×3 split and pooling branches; 2,048 channels.

    largest: the pooling branch takes maxima instead of averages, as only the last block of FID's network does.
    """

    def __init__(self, inputs: int, largest: bool) -> None:
        super().__init__()
        self.largest = largest
        row, column = {"kernel": (1, 3), "padding": (0, 1)}, {"kernel": (3, 1), "padding": (1, 0)}
        self.branch1x1 = BasicConv2d(inputs, 320, 1)
        self.branch3x3_1 = BasicConv2d(inputs, 384, 1)
        self.branch3x3_2a = BasicConv2d(384, 384, **row)  # type: ignore[arg-type]
        self.branch3x3_2b = BasicConv2d(384, 384, **column)  # type: ignore[arg-type]
        self.branch3x3dbl_1 = BasicConv2d(inputs, 448, 1)
        self.branch3x3dbl_2 = BasicConv2d(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = BasicConv2d(384, 384, **row)  # type: ignore[arg-type]
        self.branch3x3dbl_3b = BasicConv2d(384, 384, **column)  # type: ignore[arg-type]
        self.branch_pool = BasicConv2d(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branches, one after another."""
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.largest else average(x)
        branches = [self.branch1x1(x), self.branch3x3_2a(three), self.branch3x3_2b(three)]
        branches += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(pooled)]
        return torch.cat(branches, 1)


def average(x: Tensor) -> Tensor:
    """3×3 averages of what is there: padding is not counted, unlike in torchvision's network."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
