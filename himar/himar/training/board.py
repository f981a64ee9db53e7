"""Writes TensorBoard logs: a training's scalars by step, and grids of sampled images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from himar_kernels import ConfigError, to_sheet
from himar_kernels.shared.files import require_writable_folder

from ..family import model_family
from .optimise import Progress

_COLUMNS = 8


class Board:
    """Writes one training's figures; open it with `open_board`."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def scalars(self, progress: Progress) -> None:
        """Write every figure of a step."""
        for name, value in progress.figures.items():
            self._writer.add_scalar(name.replace(" ", "/"), value, progress.step)

    def grid(self, model: Any, vae: nn.Module, shown: Tensor, step: int) -> None:
        """Sample images of `shown` (`Task.examples`), with the same seed each time, and write them as one picture."""
        labels, contexts = (None, shown) if shown.is_floating_point() else (shown.tolist(), None)
        device = next(model.parameters()).device
        family = model_family(model.family)
        sampling = family.choose_sampling(model, None, None, {}, "this model")
        images = family.images(model, vae.to(device), labels, seed=0, sampling=sampling, contexts=contexts)
        self._writer.add_image("samples", to_sheet(images, _COLUMNS), step, dataformats="HWC")
        self._writer.flush()


def require_board(folder: Path) -> None:
    """Raise ConfigError when TensorBoard is not installed or its files cannot go to `folder`. Leaves nothing."""
    if find_spec("tensorboard") is None:
        raise ConfigError("TensorBoard is not installed: pip install 'himar[train]', or train without --tensorboard.")
    require_writable_folder(folder, ConfigError)


@contextmanager
def open_board(folder: Path) -> Iterator[Board]:
    """Open a board whose files go to `folder`. Raises ConfigError as `require_board` does."""
    require_board(folder)
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))
    try:
        yield Board(writer)
    finally:
        writer.close()
