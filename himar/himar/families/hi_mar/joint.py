"""Trains a small text tower together with a Hi-MAR model from text: one module while it learns, two files when saved.

    joint = join(config, TextConfig(width=config.context_width, positions=config.buffer, …), empty_ids)
    data = CaptionedSet(high, low, texts=ids, first=first, empty_text=empty_ids)
    run_training(joint, data, settings, seed, Outputs(folder, "scenes.safetensors"), vae=vae)

ids are int64 (c, K), the tokenizer's rows of all captions, and empty_ids (K,) its row of the empty text. What is
written, both averaged:

    folder/scenes.safetensors     the model; its empty_context is the averaged tower's of the empty text
    folder/scenes-text/           config.json and model.safetensors of the tower, as `load_text_tower` reads them

The tokenizer's own files are the caller's to put into that folder. There is no published recipe of this: CLIP's tower
is frozen in the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from himar.text import TextConfig, TextTower, encode
from himar_kernels import ConfigError, InputError

from .config import ModelConfig
from .loss_draws import BatchDraws
from .model import HiMAR

TOWER = "tower."
"""Prefix of the tower's parameters in the module that learns."""
TOWER_RATE = 0.25
"""The tower's learning rate, relative to the model's: it is to go on reading what it has read."""


@dataclass(frozen=True)
class JointConfig(ModelConfig):
    """Sizes of a model from text and of the tower that is trained with it; made by `join`.

    tower: its rows are context_width wide and buffer long; empty_ids: token ids of the empty text, as many.
    """

    tower: TextConfig = field(default_factory=TextConfig)
    empty_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.from_text:
            raise ConfigError("context is 'class', but a text tower is trained with a model from text alone.")
        if (self.tower.positions, self.tower.width) != (self.buffer, self.context_width):
            raise ConfigError(
                f"the tower gives {self.tower.positions} rows of {self.tower.width}, and the model takes {self.buffer} "
                f"of {self.context_width}; give both the same positions and width."
            )
        if len(self.empty_ids) != self.buffer or not all(0 <= each < self.tower.vocabulary for each in self.empty_ids):
            raise ConfigError(
                f"empty_ids are {len(self.empty_ids)} tokens; give {self.buffer} of 0 to {self.tower.vocabulary - 1}: "
                f"the tokenizer's row of the empty text."
            )

    @property
    def alone(self) -> ModelConfig:
        """The model's configuration without the tower's."""
        return ModelConfig(**{each.name: getattr(self, each.name) for each in fields(ModelConfig)})


def join(config: ModelConfig, tower: TextConfig, empty_ids: Sequence[int] | Tensor) -> JointConfig:
    """Return the configuration of a model and a tower that are trained together. Raises ConfigError."""
    values = {each.name: getattr(config, each.name) for each in fields(ModelConfig)}
    return JointConfig(**values, tower=tower, empty_ids=tuple(int(each) for each in empty_ids))


class JointHiMAR(HiMAR):
    """A Hi-MAR model from text with its text tower; samples from contexts as HiMAR does, once `settle` was called."""

    config: JointConfig

    def __init__(self, config: JointConfig, dropout: float = 0.0) -> None:
        super().__init__(config, dropout)
        self.tower = TextTower(config.tower)

    def contexts(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return contexts (B, K, W) of token ids (B, K), and the empty text's (1, K, W), with gradients."""
        empty = torch.tensor([self.config.empty_ids], device=ids.device)
        both = self.tower(torch.cat([ids, empty]))
        return both[:-1], both[-1:]

    def settle(self) -> None:
        """Compute the empty context from the tower as it is."""
        with torch.no_grad():
            self.empty_context.copy_(encode(self.tower, torch.tensor([self.config.empty_ids])))

    def without_tower(self) -> HiMAR:
        """Return the model alone, over the same weights."""
        with torch.device("meta"):
            model = HiMAR(self.config.alone)
        state = {name: value for name, value in self.state_dict().items() if not name.startswith(TOWER)}
        model.load_state_dict(state, assign=True)
        return model.eval().requires_grad_(False)


def with_contexts(model: HiMAR, draws: BatchDraws) -> tuple[BatchDraws, Tensor | None]:
    """Return draws that show contexts in place of token ids, and the empty text's (1, K, W), with gradients.

    A model whose tower is not trained with it keeps its draws and its own empty context: None.
    """
    if not isinstance(model, JointHiMAR):
        return draws, None
    contexts, empty = model.contexts(draws.shown)
    return replace(draws, shown=contexts), empty


def require_texts(model: HiMAR, empty: Tensor) -> None:
    """Raise InputError unless a model's captions are token ids where its tower learns, and contexts where it does not.

    empty: the data's empty text, ids (K,) or a context (K, W).
    """
    if not isinstance(model, JointHiMAR):
        if not empty.is_floating_point():
            raise InputError("the captions are token ids, and no text tower is trained; give their contexts.")
    elif empty.is_floating_point():
        raise InputError("the captions are contexts, and the text tower is trained too; give their token ids.")
    elif tuple(empty.tolist()) != model.config.empty_ids:
        raise InputError("the data's empty text has other token ids than the configuration's; give both the same.")


def initialise_tower(model: JointHiMAR, seed: int) -> None:
    """Set the tower's first weights, as CLIP's, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.tower.load_state_dict(TextTower(model.config.tower).state_dict())
