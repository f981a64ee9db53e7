"""Trains a small KL VAE on images of two resolutions; the digits' and the scenes' VAEs are its presets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.digits import half_size
from ..loading.files import write_safetensors
from ..training.network import autocast
from ..training.optimise import OnStep, Optimiser, Progress, Schedule
from ..training.settings import Precision
from .autoencoder import AutoencoderKL, VaeConfig

_HALF_SIZE_WEIGHT = 0.2


@dataclass(frozen=True)
class VaeTraining:
    """How to train a VAE.

    config: its sizes; schedule: steps and learning rate; batch: images per step and resolution; kl_weight:
    weight of the mean KL divergence per latent value against the mean squared error per pixel value; precision: of the
    convolutions; decoder: schedule of a second stage, which trains the decoder alone on latents of the finished encoder
    and weighs the full size more; None for none.
    """

    config: VaeConfig
    schedule: Schedule
    batch: int
    kl_weight: float
    precision: Precision = "fp32"
    decoder: Schedule | None = None

    @property
    def steps(self) -> int:
        """Steps of both stages."""
        return self.schedule.steps + (self.decoder.steps if self.decoder else 0)


DIGITS_VAE = VaeTraining(
    config=VaeConfig(ch=32, ch_mult=(1, 1, 2), z_channels=4, num_res_blocks=1, attention_levels=()),
    schedule=Schedule(steps=450, peak=1e-3, warmup=30, decay="cosine"),
    batch=32,
    kl_weight=1e-3,
)

# Half precision halves the time on a CPU that has it; others give the same weights but for rounding, later.
SCENES_VAE = VaeTraining(
    config=VaeConfig(
        ch=32, ch_mult=(1, 2, 2, 2), z_channels=16, num_res_blocks=1, attention_levels=(), mid_attention=False
    ),
    schedule=Schedule(steps=1400, peak=3e-3, warmup=50, decay="cosine"),
    batch=32,
    kl_weight=5e-4,
    precision="bf16",
    decoder=Schedule(steps=1500, peak=1.5e-3, warmup=50, decay="cosine"),
)


def train_vae(training: VaeTraining, images: Tensor, seed: int, on_step: OnStep | None = None) -> AutoencoderKL:
    """Train on images (n, 3, H, W) in [-1, 1] at full and half size; the same seed gives the same weights.

    Returns the VAE in eval mode, frozen. Raises TrainingError when the loss stops being finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL(training.config)
    generator = torch.Generator().manual_seed(seed)
    optimiser = Optimiser(vae.parameters(), training.schedule, clip=1.0)
    sizes = (images, half_size(images))

    def report(step: int, figures: dict[str, float]) -> None:
        if on_step:
            on_step(Progress(step + 1, training.steps, training.batch, figures))

    for step in range(training.schedule.steps):
        chosen = torch.randint(len(images), (training.batch,), generator=generator)
        with autocast(training.precision, images.device):
            pairs = [vae_losses(vae, size[chosen], generator) for size in sizes]
        errors, divergences = zip(*pairs, strict=True)
        error, divergence = torch.stack(errors).mean(), torch.stack(divergences).mean()
        rate = optimiser.step(step, error + training.kl_weight * divergence)
        report(step, {"squared error": error.item(), "KL": divergence.item(), "rate": rate})
    if training.decoder is not None:
        moments = [latent_moments(vae, size) for size in sizes]
        decoder = [*vae.post_quant_conv.parameters(), *vae.decoder.parameters()]
        optimiser = Optimiser(decoder, training.decoder, clip=1.0)
        for step in range(training.decoder.steps):
            chosen = torch.randint(len(images), (training.batch,), generator=generator)
            apart = []
            for size, latents, count in zip(sizes, moments, (training.batch, training.batch // 4), strict=True):
                mean, deviation = latents[chosen[:count]].unbind(1)
                with autocast(training.precision, images.device):
                    decoded = vae.decode(mean + deviation * torch.randn(mean.shape, generator=generator))
                apart.append(F.mse_loss(decoded.float(), size[chosen[:count]]))
            # The images that users see are of the full size.
            rate = optimiser.step(step, apart[0] + _HALF_SIZE_WEIGHT * apart[1])
            report(training.schedule.steps + step, {"squared error": apart[0].item(), "rate": rate})
    return vae.eval().requires_grad_(False)


def vae_losses(vae: AutoencoderKL, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (n, 3, H, W) -> mean squared error per pixel value, mean KL divergence per latent value."""
    mean, log_variance = vae.encode(images)
    noise = torch.randn(mean.shape, generator=generator)
    decoded = vae.decode(mean + (0.5 * log_variance).exp() * noise)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    return F.mse_loss(decoded, images), divergence.mean()


def save_vae(path: Path, vae: nn.Module) -> None:
    """Write the VAE's weights in half precision; `load_vae` reads its sizes off the shapes."""
    write_safetensors(path, {name: value.half() for name, value in vae.state_dict().items()}, {})


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKL, images: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images (n, 3, H, W) in [-1, 1] encoded (mean) and decoded."""
    decoded = torch.cat([vae.decode(vae.encode(part)[0]).clamp(-1, 1) for part in images.split(128)])
    return float(10 * torch.log10(4 / F.mse_loss(decoded, images)))


@torch.no_grad()
def latent_moments(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Images (n, 3, H, W) in [-1, 1] -> mean and deviation (n, 2, z_channels, h, w) of their latents."""
    parts = (vae.encode(part) for part in images.split(128))
    return torch.cat([torch.stack([mean, (0.5 * log_variance).exp()], dim=1) for mean, log_variance in parts])
