"""The multi-scale tokenizer: images to codes of every scale, codes to the latent, the latent to an image (§3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from himar.vae.layers import Decoder, Encoder, Kind
from himar_kernels import InputError
from himar_kernels.families.hmar import Codebook, Scales
from himar_kernels.families.hmar.scales import CONVOLUTIONS

from .sizes import TokenizerConfig


class SharedConvolutions(nn.Module):
    """The convolutions of Φ, which neighbouring scales share."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qresi_ls = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(CONVOLUTIONS))


class Quantizer(nn.Module):
    """Codes and their vectors, and what they add up to at the finest scale."""

    def __init__(self, vocab: int, channels: int) -> None:
        super().__init__()
        weight = torch.empty(vocab, channels)
        self.embedding = nn.Embedding(vocab, channels, _weight=weight if weight.is_meta else None)
        self.quant_resi = SharedConvolutions(channels)

    def contribution(self, scales: Scales, scale: int, codes: Tensor) -> Tensor:
        """Return h_s, what codes (B, T_s) add to the latent: (B, Cv, H, H)."""
        return self.spread(scales, scale, self.embedding(codes))

    def spread(self, scales: Scales, scale: int, words: Tensor) -> Tensor:
        """Return Φ(U(words)) of vectors (B, T_s, Cv) in place of codes' own: (B, Cv, H, H)."""
        up = constant(scales.up(scale), words)
        side = scales.sides[scale]
        x = up @ words.transpose(1, 2).unflatten(2, (side, side)) @ up.T
        return 0.5 * x + 0.5 * self.quant_resi.qresi_ls[scales.convolution(scale)](x)

    def nearest(self, words: Tensor) -> Tensor:
        """Return the code nearest to each of words (…, Cv), the lower of two equally near; computed in float64."""
        table = self.embedding.weight.double()
        apart = table.square().sum(dim=1) - 2 * (words.double() @ table.T)
        return apart.argmin(dim=-1)

    def encode(self, scales: Scales, latent: Tensor) -> Tensor:
        """Return codes (B, L) of the encoder's latent (B, Cv, H, H): each scale takes what the coarser ones left."""
        codes = []
        for scale in range(len(scales)):
            codes.append(self.nearest(scale_tokens(scales, scale, latent)))
            latent = latent - self.contribution(scales, scale, codes[-1])
        return torch.cat(codes, dim=1)

    def latents(self, scales: Scales, codes: Tensor) -> Tensor:
        """Return f̂ after each scale, (S, B, Cv, H, H), of codes (B, L)."""
        parts = [self.contribution(scales, scale, codes[:, scales.span(scale)]) for scale in range(len(scales))]
        return torch.stack(parts).cumsum(dim=0)

    def inputs(self, scales: Scales, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return n_1 … n_{S-1} and m_1 … m_{S-1}, both (B, L-T_0, Cv), of true codes (B, L): training's inputs."""
        total = self.contribution(scales, 0, codes[:, scales.span(0)])
        ahead, own = [], []
        for scale in range(1, len(scales)):
            part = self.contribution(scales, scale, codes[:, scales.span(scale)])
            ahead.append(scale_tokens(scales, scale, total))
            own.append(scale_tokens(scales, scale, part))
            total = total + part
        return torch.cat(ahead, dim=1), torch.cat(own, dim=1)


class Tokenizer(nn.Module):
    """The released tokenizer's layout: encoder, quantizer, decoder."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        kind = Kind(groups=config.groups, fused=True, moments=False)
        widths, levels, z = config.widths, config.attention_levels, config.latent_channels
        self.encoder = Encoder(3, widths, config.num_res_blocks, levels, z, True, kind)
        self.decoder = Decoder(3, widths, config.num_res_blocks + 1, levels, z, True, kind)
        self.quantize = Quantizer(config.vocab, z)
        self.quant_conv = nn.Conv2d(z, z, 3, padding=1)
        self.post_quant_conv = nn.Conv2d(z, z, 3, padding=1)

    @property
    def stride(self) -> int:
        """Image pixels per side of a cell of the latent."""
        return self.config.stride

    def latent(self, image: Tensor) -> Tensor:
        """Image (B, 3, 16H, 16H) in [-1, 1] → f (B, Cv, H, H)."""
        return self.quant_conv(self.encoder(image))

    def encode(self, image: Tensor, scales: Scales) -> Tensor:
        """Image (B, 3, 16H, 16H) in [-1, 1] → codes (B, L). Raises InputError for an image of other sides."""
        side = scales.side * self.stride
        if tuple(image.shape[-2:]) != (side, side):
            raise InputError(
                f"the image has {image.shape[-1]} × {image.shape[-2]} pixels, but the model's scales need "
                f"{side} × {side}; crop or resize it first."
            )
        return self.quantize.encode(scales, self.latent(image))

    def decode(self, f_hat: Tensor) -> Tensor:
        """Latent f̂ (B, Cv, H, H), of all scales or of the first ones as a preview → image (B, 3, …) in [-1, 1]."""
        return self.decoder(self.post_quant_conv(f_hat)).clamp(-1, 1)

    def decode_codes(self, codes: Tensor, scales: Scales) -> Tensor:
        """Codes (B, L) → image (B, 3, 16H, 16H) in [-1, 1]."""
        return self.decode(self.quantize.latents(scales, codes)[-1])

    def codebook(self) -> Codebook:
        """Return what the loop between the networks needs, as NumPy arrays."""
        parts = self.quantize.quant_resi.state_dict()
        weights, biases = (
            torch.stack([parts[f"qresi_ls.{k}.{kind}"] for k in range(CONVOLUTIONS)]) for kind in ("weight", "bias")
        )
        return Codebook(_array(self.quantize.embedding.weight), _array(weights), _array(biases))


def scale_tokens(scales: Scales, scale: int, grid: Tensor) -> Tensor:
    """Return A(grid) as tokens (B, T_s, Cv) of a grid (B, Cv, H, H)."""
    down = constant(scales.down(scale), grid)
    return (down @ grid @ down.T).flatten(2).transpose(1, 2)


def constant(matrix: np.ndarray, like: Tensor) -> Tensor:
    """Return a map between scales as a tensor of another's dtype and device."""
    return torch.tensor(matrix, dtype=like.dtype, device=like.device)


def image_values(pixels: Tensor | Sequence[np.ndarray] | np.ndarray) -> Tensor:
    """Return uint8 pixels (…) as values in [-1, 1]."""
    return torch.as_tensor(np.asarray(pixels)).float() * (2 / 255) - 1


def _array(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()
