"""Defines the whole Hi-MAR model: masked transformer and a diffusion head per phase, as the configuration says."""

from __future__ import annotations

import torch
from torch import nn

from himar_kernels import ConfigError
from himar_kernels.families.hi_mar.phases import HeadKind
from himar_kernels.families.registry import HI_MAR

from .config import ModelConfig
from .dit_head import DiTHead
from .mlp_head import MLPHead
from .transformer import MODULATIONS, Block, MaskedTransformer


class Head(nn.Module):
    """Holds a head under the name the released checkpoints give it (`diffloss.net`, `cond_diffloss.net`)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


class HiMAR(MaskedTransformer):
    """A Hi-MAR model in the released checkpoints' layout (docs/model.md §2-4).

    Args:
        config: sizes of the model.
        dropout: of attention and projection in the transformer, active in training mode only (§8: 0.1).

    family: its name in himar_kernels.families.registry.
    class_names: what its data called the classes, one name each ("" where unknown); None where nothing is known.
    """

    family = HI_MAR

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__(config, dropout)
        self.class_names: tuple[str, ...] | None = None
        if config.single_scale:
            self.diffloss = Head(_head(config.high_head, config, config.grid))
        else:
            self.diffloss = Head(_head(config.low_head, config, config.cond_scale))
            self.cond_diffloss = Head(_head(config.high_head, config, config.grid))

    @property
    def low_head(self) -> MLPHead | DiTHead:
        """The head of phase low. Raises ConfigError when the model has a single scale."""
        if self.config.single_scale:
            raise ConfigError("this model's pivots are 'none': it has a single scale and no phase low.")
        return _checked(self.diffloss.net)

    @property
    def high_head(self) -> MLPHead | DiTHead:
        """The head of phase high, the only phase of a single scale."""
        return _checked(self.diffloss.net if self.config.single_scale else self.cond_diffloss.net)

    @property
    def mlp_head(self) -> MLPHead:
        """The head of phase low, an MLP head. Raises ConfigError for a variant that has none there."""
        head = self.low_head
        if not isinstance(head, MLPHead):
            raise ConfigError(f"phase low of this model has a {self.config.low_head} head, not an mlp head.")
        return head

    @property
    def dit_head(self) -> DiTHead:
        """The head of phase high, a DiT head. Raises ConfigError for a variant that has none there."""
        head = self.high_head
        if not isinstance(head, DiTHead):
            raise ConfigError(f"phase high of this model has a {self.config.high_head} head, not a dit head.")
        return head


def _head(kind: HeadKind, config: ModelConfig, grid: int) -> MLPHead | DiTHead:
    if kind == "mlp":
        return MLPHead(config.channels, config.mlp_depth, config.mlp_width, config.width)
    return DiTHead(config.channels, config.dit_depth, config.dit_width, config.dit_heads, config.width, grid)


def _checked(net: nn.Module) -> MLPHead | DiTHead:
    assert isinstance(net, MLPHead | DiTHead)
    return net


@torch.no_grad()
def initialise(model: HiMAR, seed: int) -> HiMAR:
    """Set weights for training from scratch, the same for the same seed; returns the model.

    Linear layers Xavier-uniform, tables normal 0.02. Scale-aware blocks start as plain pre-norm blocks, with a
    sinusoidal scale vector as the identity (zero gates); the heads' modulations and last layers start at zero, as
    usual for adaLN. The empty context of a model from text is set to zero: it is its text tower's, not learned here.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.flatten(1), generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02, generator=generator)
        elif isinstance(module, Block) and module.modulations:
            nn.init.ones_(module.adaLN_scale)
            gates = module.adaLN_shift.zero_().unflatten(-1, (module.modulations, -1))
            if module.modulations == MODULATIONS["learned"]:
                gates[..., 1::2, :] = 1
    for name, parameter in model.named_parameters(recurse=False):
        if name != "cond_tokens":
            nn.init.normal_(parameter, std=0.02, generator=generator)
    if not model.config.single_scale:
        nn.init.zeros_(model.cond_tokens)
    for name, parameter in model.named_parameters():
        if "adaLN_modulation" in name or "_blocks_ada" in name or "final_layer.linear" in name:
            nn.init.zeros_(parameter)
    if model.config.from_text:
        model.empty_context.zero_()
    return model


@torch.no_grad()
def randomise(model: HiMAR, seed: int) -> HiMAR:
    """Give every parameter a value that matters, so that an export of random weights can be checked.

    Starts from `initialise` and fills what that leaves at zero (modulations, last layers) with small normals; an empty
    context becomes a standard normal, as large as what a text tower's last LayerNorm gives.
    """
    initialise(model, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02, generator=generator)
    if model.config.from_text:
        nn.init.normal_(model.empty_context, generator=generator)
    return model
