"""Defines the transformer of CLIP's towers: pre-norm blocks (arXiv 2103.00020, §2.4), Hugging Face's names."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from himar_kernels import ConfigError

Activation = Literal["quick_gelu", "gelu"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)


class Attention(nn.Module):
    """Multi-head self-attention, softmax scale head_dim^-½; causal: a position sees itself and those before it."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, T, D) to (n, T, D)."""
        rows, length, width = x.shape
        q, k, v = (
            part(x).view(rows, length, self.heads, width // self.heads).transpose(1, 2)
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out_proj(mixed.transpose(1, 2).reshape(rows, length, width))


class FeedForward(nn.Module):
    """Linear, activation, Linear; quick_gelu is x·σ(1.702 x)."""

    def __init__(self, width: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, D) to (…, D)."""
        x = self.fc1(x)
        return self.fc2(F.gelu(x) if self.activation == "gelu" else x * torch.sigmoid(1.702 * x))


class Block(nn.Module):
    """x + attention(norm1(x)), then x + feed-forward(norm2(x))."""

    def __init__(self, width: int, heads: int, hidden: int, activation: Activation, eps: float, causal: bool) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(width, eps)
        self.self_attn = Attention(width, heads, causal)
        self.layer_norm2 = nn.LayerNorm(width, eps)
        self.mlp = FeedForward(width, hidden, activation)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, T, D) to (n, T, D)."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    """A stack of blocks."""

    def __init__(
        self, layers: int, width: int, heads: int, hidden: int, activation: Activation, eps: float, causal: bool
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(width, heads, hidden, activation, eps, causal) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, T, D) to (n, T, D)."""
        for block in self.layers:
            x = block(x)
        return x

    def initialise(self, width: int) -> None:
        """Draw weights as CLIP's authors do (arXiv 2103.00020 and its code): deviations follow width and depth."""
        small = width**-0.5 * (2 * len(self.layers)) ** -0.5
        deviations = {"out_proj": small, "fc2": small, "fc1": (2 * width) ** -0.5}
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=deviations.get(name.rpartition(".")[2], width**-0.5))
                nn.init.zeros_(module.bias)


def check_sizes(sizes: dict[str, int], heads: int, width: int, activation: str) -> None:
    """Raise ConfigError, naming the value: a size below 1, heads that don't divide the width, an unknown activation."""
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(f"{name} is {size}; every size of a tower is at least 1.")
    if heads < 1 or width % heads:
        raise ConfigError(f"{heads} heads do not divide the width {width}; the tower's config.json has another number.")
    if activation not in ACTIVATIONS:
        raise ConfigError(f"the activation is {activation!r}; himar has {' and '.join(ACTIVATIONS)}.")
