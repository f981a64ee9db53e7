"""Trains a model from text and its text tower as one network, on captioned latents."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from himar.data.latents import LatentSet
from himar.text import TextTower
from himar.training.network import autocast
from himar.training.settings import Precision
from himar_kernels import InputError
from himar_kernels.families.registry import HI_MAR

from .config import ModelConfig
from .loss_draws import BatchDraws, PhaseDraws, draw_batch
from .losses import drawn_losses
from .model import HiMAR
from .training import Drawn, HiMarTask, parameter_groups
from .training_settings import TrainingSettings


@dataclass(frozen=True)
class CaptionedLatents:
    """Latents with the token ids of each image's wordings (n, captions, K), and of the empty text (1, K)."""

    latents: LatentSet
    ids: Tensor
    empty: Tensor

    def __post_init__(self) -> None:
        if len(self.latents.labels) != len(self.ids):
            raise InputError(f"{len(self.latents.labels)} latents came with captions of {len(self.ids)} images.")

    @property
    def labels(self) -> Tensor:
        """Zeros (n,): captioned images have no classes."""
        return self.latents.labels


class JointModel(nn.Module):
    """A model from text and the tower that makes its contexts.

    What a training asks of a model is the first one's; the second one's are the rows that `contexts` gives.
    """

    family = HI_MAR
    class_names: tuple[str, ...] | None = None

    def __init__(self, model: HiMAR, tower: TextTower) -> None:
        super().__init__()
        self.model, self.tower = model, tower

    @property
    def config(self) -> ModelConfig:
        """The model's sizes."""
        return self.model.config

    @property
    def recompute(self) -> bool:
        """See MaskedTransformer."""
        return self.model.recompute

    @recompute.setter
    def recompute(self, value: bool) -> None:
        self.model.recompute = value

    def contexts(self, ids: Tensor, empty: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids (B, K) and those of the empty text (1, K) -> contexts (B, K, W) and (1, K, W)."""
        rows = self.tower(torch.cat([ids, empty]))
        return rows[:-1], rows[-1:]


@dataclass(frozen=True)
class DrawnCaptions:
    """A step's tokens and numbers, with ids (B, K), and which images lose their text in each phase (B,), (B,)."""

    drawn: Drawn
    ids: Tensor
    dropped: tuple[Tensor, Tensor]

    def part(self, images: slice, device: torch.device) -> tuple[Any, ...]:
        """See Batch.part."""
        dropped = [each[images].to(device) for each in self.dropped]
        return (*self.drawn.part(images, device), self.ids[images].to(device), *dropped)


class JointTask(HiMarTask):
    """See `himar.training.family.Task`: the losses of HiMarTask, through the tower."""

    def __init__(self, joint: JointModel, data: CaptionedLatents, settings: TrainingSettings) -> None:
        super().__init__(joint.model, data.latents, settings)
        self._joint, self._data = joint, data

    def fingerprint(self) -> dict[str, Any]:
        """See Task.fingerprint."""
        return {**super().fingerprint(), "captions": hashlib.sha256(self._data.ids.numpy().tobytes()).hexdigest()[:16]}

    def begin(self, seed: int, start: nn.Module | None) -> None:
        """See Task.begin."""
        super().begin(seed, None)
        initialise_tower(self._joint.tower, seed)
        if start is not None:
            self._joint.load_state_dict(start.state_dict())

    def groups(self) -> list[dict[str, Any]]:
        """See Task.groups; the tower's parameters do not decay."""
        others = [{"params": list(self._joint.tower.parameters()), "weight_decay": 0.0}]
        return parameter_groups(self._joint.model, self._settings.weight_decay) + others

    def network(self) -> nn.Module:
        """See Task.network."""
        return JointLoss(self._joint, self._data.empty, self._settings.precision)

    def draw(self, chosen: Tensor, epoch: int, needed: Collection[slice], generator: torch.Generator) -> DrawnCaptions:
        """See Task.draw; one wording of each image at random."""
        config, settings = self._joint.config, self._settings
        tokens, low_tokens, labels = self._data.latents.draw(chosen, config.vae_scale, generator)
        wording = torch.randint(self._data.ids.shape[1], (len(chosen),), generator=generator)
        losses = replace(settings.loss, pivot_share=settings.pivot_share(epoch))
        draws = draw_batch(config, labels, losses, generator)
        low, high = (torch.rand(len(chosen), generator=generator) < losses.label_drop for _ in range(2))
        return DrawnCaptions(Drawn(tokens, low_tokens, draws), self._data.ids[chosen, wording], (low, high))


class JointLoss(nn.Module):
    """Maps a part of the batch to the four losses, as `LossNetwork` does."""

    def __init__(self, joint: JointModel, empty: Tensor, precision: Precision) -> None:
        super().__init__()
        self.joint = joint
        self.register_buffer("empty", empty, persistent=False)
        self._precision: Precision = precision

    def forward(
        self,
        tokens: Tensor,
        low_tokens: Tensor,
        draws: BatchDraws,
        ids: Tensor,
        low_dropped: Tensor,
        high_dropped: Tensor,
    ) -> Tensor:
        """Return low_mse, low_vb, high_mse, high_vb as (4,), float32."""
        half = autocast(self._precision, tokens.device)
        with half:
            contexts, empty = self.joint.contexts(ids, self.get_buffer("empty"))
        low = None if draws.low is None else _shown(draws.low, contexts, empty, low_dropped)
        draws = replace(draws, low=low, high=_shown(draws.high, contexts, empty, high_dropped))
        losses = drawn_losses(self.joint.model, tokens, low_tokens, draws, autocast(self._precision, tokens.device))
        return torch.stack([losses.low_mse, losses.low_vb, losses.high_mse, losses.high_vb])


@torch.no_grad()
def initialise_tower(tower: TextTower, seed: int) -> None:
    """Set a tower's weights for training from scratch, the same for the same seed.

    Linear layers Xavier-uniform, tables normal 0.1: words have to be told apart from the first steps on, in a run that
    is short.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in tower.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.1, generator=generator)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def _shown(draws: PhaseDraws, contexts: Tensor, empty: Tensor, dropped: Tensor) -> PhaseDraws:
    """Give a phase its contexts (B, K, W) in place of class rows."""
    return replace(draws, class_row=torch.where(dropped[:, None, None], empty, contexts))
