"""Trains a small multi-scale tokenizer from nothing, by reconstruction alone (§3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from himar.training.optimise import OnStep, Optimiser, Progress, Schedule
from himar_kernels import ConfigError
from himar_kernels.families.hmar import Scales

from .network import Quantizer, Tokenizer, scale_tokens
from .sizes import TokenizerConfig


@dataclass(frozen=True)
class TokenizerTraining:
    """How to train a tokenizer.

    config: its sizes; scales: the sides that its codes are of; schedule: steps and learning rate; batch: images per
    step; commitment: weight of moving the encoder's latent to the codes, against moving the codes to it; shift: largest
    shift of a training image in pixels, in both directions; restart_every: steps between restarts of codes that no
    image since the restart before had; restarts end after `restart_share` of the steps.
    """

    config: TokenizerConfig
    scales: Scales
    schedule: Schedule
    batch: int
    commitment: float = 0.25
    shift: int = 0
    restart_every: int = 20
    restart_share: float = 0.7

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("restart_every", 1), ("shift", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if not 0 <= self.commitment < math.inf:
            raise ConfigError(f"commitment is {self.commitment}; it must be a finite number of at least 0.")
        if not 0 <= self.restart_share <= 1:
            raise ConfigError(f"restart_share is {self.restart_share}; it must be 0 to 1.")


@dataclass(frozen=True)
class Quantized:
    """A latent put into codes, for training.

    f_hat: (B, Cv, H, H), with gradients to codes' vectors and convolutions; codes (B, L); words: what each code was
    chosen for, (B, L, Cv); partial: f̂ after each scale, (S, B, Cv, H, H).
    """

    f_hat: Tensor
    codes: Tensor
    words: Tensor
    partial: Tensor


def train_tokenizer(training: TokenizerTraining, images: Tensor, seed: int, on_step: OnStep | None = None) -> Tokenizer:
    """Train on images (n, 3, stride·H, stride·H) in [-1, 1]; the same seed gives the same weights.

    Returns the tokenizer in eval mode, frozen. Raises ConfigError for images of other sides, TrainingError when the
    loss stops being finite.
    """
    side = training.scales.side * training.config.stride
    if tuple(images.shape[1:]) != (3, side, side):
        raise ConfigError(
            f"the images are {tuple(images.shape)}, but these scales and levels need (n, 3, {side}, {side})."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = Tokenizer(training.config)
    generator = torch.Generator().manual_seed(seed)
    optimiser = Optimiser(tokenizer.parameters(), training.schedule, clip=1.0)
    steps, copies = training.schedule.steps, shifts(images, training.shift)
    used = torch.zeros(training.config.vocab, dtype=torch.int64)
    for step in range(steps):
        chosen = torch.randint(len(images), (training.batch,), generator=generator)
        copy = torch.randint(len(copies), (training.batch,), generator=generator).tolist()
        batch = torch.stack([copies[number][image] for number, image in zip(copy, chosen.tolist(), strict=True)])
        latent = tokenizer.latent(batch)
        if step == 0:
            restart_unused(tokenizer.quantize, used == 0, training.scales, latent.detach(), generator)
        found = quantize(tokenizer.quantize, training.scales, latent)
        error = F.mse_loss(straight_through(tokenizer, latent, found.f_hat), batch)
        distance = F.mse_loss(found.partial, latent.detach().expand_as(found.partial))
        commitment = F.mse_loss(latent.expand_as(found.partial), found.partial.detach())
        rate = optimiser.step(step, error + distance + training.commitment * commitment)
        used += torch.bincount(found.codes.flatten(), minlength=len(used))
        if (step + 1) % training.restart_every == 0:
            if step < training.restart_share * steps:
                restart_unused(tokenizer.quantize, used == 0, training.scales, latent.detach(), generator)
            used.zero_()
        if on_step:
            figures = {"squared error": error.item(), "distance": distance.item(), "rate": rate}
            on_step(Progress(step + 1, steps, training.batch, figures))
    return tokenizer.eval().requires_grad_(False)


def quantize(quantizer: Quantizer, scales: Scales, latent: Tensor) -> Quantized:
    """Put the encoder's latent (B, Cv, H, H) into codes as `Quantizer.encode` does, with gradients to the codes."""
    rest, f_hat = latent.detach(), torch.zeros_like(latent)
    codes, words, partial = [], [], []
    for scale in range(len(scales)):
        words.append(scale_tokens(scales, scale, rest))
        codes.append(quantizer.nearest(words[-1]))
        part = quantizer.contribution(scales, scale, codes[-1])
        rest = rest - part.detach()
        f_hat = f_hat + part
        partial.append(f_hat)
    return Quantized(f_hat, torch.cat(codes, dim=1), torch.cat(words, dim=1), torch.stack(partial))


def straight_through(tokenizer: Tokenizer, latent: Tensor, f_hat: Tensor) -> Tensor:
    """Decode f̂, not clamped, with the gradient that reaches it handed to the encoder's latent as it is."""
    return tokenizer.decoder(tokenizer.post_quant_conv(latent + (f_hat - latent).detach()))


def shifts(images: Tensor, most: int) -> list[Tensor]:
    """Return images (B, 3, H, W) moved by up to `most` pixels down and right in every way, their borders repeated."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (most, most, most, most), mode="replicate")
    every = range(2 * most + 1)
    return [padded[..., y : y + height, x : x + width] for y in every for x in every]


@torch.no_grad()
def restart_unused(
    quantizer: Quantizer, unused: Tensor, scales: Scales, latent: Tensor, generator: torch.Generator
) -> None:
    """Give codes that nothing uses the value of a word that was to be put into codes, of every scale equally often."""
    count = int(unused.sum())
    if not count:
        return
    words = quantize(quantizer, scales, latent).words
    which = torch.randint(len(scales), (count,), generator=generator)
    cells = torch.tensor(scales.cells)[which]
    place = torch.tensor(scales.starts)[which] + (torch.rand(count, generator=generator) * cells).long()
    image = torch.randint(len(latent), (count,), generator=generator)
    quantizer.embedding.weight[unused] = words[image, place]
