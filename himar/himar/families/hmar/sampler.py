"""The eager sampler over scales: the reference that engines are compared with (§5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from himar_kernels import check_labels
from himar_kernels.families.hmar import Draws, Forward, Kept, SamplingConfig, edited_share, plan

from .attention import Attend, Cache
from .code_draws import draw_codes, guided, least_confident, smooth_weights, surviving
from .model import HMAR, Network
from .tokenizer.files import require_fit
from .tokenizer.network import Tokenizer, scale_tokens


@dataclass(frozen=True)
class Sampled:
    """What a generation leaves: codes int64 (B, L), None of a smooth preview; f_hat (B, Cv, H, H), the latent."""

    codes: Tensor | None
    f_hat: Tensor


@dataclass(frozen=True)
class Observed:
    """Everything about one forward, for recordings and comparisons.

    x: (B, T, C), tokens of the conditional rows; cond, uncond: logits (B, T, V), uncond None where the conditional rows
    ran alone; logits: after guidance; keep: boolean (B, T, V); drawn, codes: (B, T), the codes drawn at all cells and
    the map after this forward, None in a smooth preview, as is confidence (B, T); masked: boolean (B, T), the cells
    that the forward redraws, None where the next-scale network ran.
    """

    forward: Forward
    x: Tensor
    cond: Tensor
    uncond: Tensor | None
    logits: Tensor
    keep: Tensor
    drawn: Tensor | None
    confidence: Tensor | None
    masked: Tensor | None
    codes: Tensor | None


OnForward = Callable[[Observed], None]
OnScale = Callable[[int, Tensor], None]
Forced = Mapping[tuple[int, int], np.ndarray]


def generate(
    model: HMAR,
    tokenizer: Tokenizer,
    labels: Sequence[int],
    *,
    draws: Draws,
    sampling: SamplingConfig | None = None,
    first_index: int = 0,
) -> Tensor:
    """Sample one image per label: (B, 3, 16H, 16H) in [-1, 1].

    Args:
        model, tokenizer: on the same device, any.
        labels: class of each image, 0 … classes-1.
        draws: source of uniforms.
        sampling: guidance, filters and schedule; None takes the model configuration's default.
        first_index: image index of the first label; images depend on the draws' seed and their index alone.

    Raises:
        InputError: a label is out of range, or the model cannot sample so (`ModelConfig.check_sampling`).
        ConfigError: the tokenizer is not the model's.
    """
    sampled = sample_codes(model, tokenizer, labels, draws=draws, sampling=sampling, first_index=first_index)
    with torch.inference_mode():
        return tokenizer.decode(sampled.f_hat)


@torch.inference_mode()
def sample_codes(
    model: HMAR,
    tokenizer: Tokenizer,
    labels: Sequence[int] | None,
    *,
    draws: Draws,
    sampling: SamplingConfig | None = None,
    first_index: int = 0,
    kept: Kept | None = None,
    forced: Forced | None = None,
    on_forward: OnForward | None = None,
    on_scale: OnScale | None = None,
) -> Sampled:
    """Run all scales as `generate` does; return codes and latent, which `tokenizer.decode` turns into images.

    kept: what an edit keeps; None draws every cell. With it labels may be None, for the unconditional rows alone.
    forced: codes (B, T) by (scale, step) that are taken in place of the ones drawn, as recordings have them.
    on_forward: is given each forward; on_scale: each scale's number and the latent after it, for previews.
    """
    sampling = sampling or model.config.default_sampling
    model.config.check_sampling(sampling)
    require_fit(tokenizer, model.config, "the tokenizer")
    if labels is None and kept is not None:
        rows = torch.full((len(kept.codes),), model.config.classes)
    else:
        rows = torch.from_numpy(check_labels([] if labels is None else labels, model.config.classes))
    rows = rows.to(model.pos_1LC.device)
    loop = _Loop(model, tokenizer, draws, first_index, rows, sampling, kept, forced or {}, on_forward)
    f_hat = loop.empty()
    codes = []
    forwards = plan(sampling, model.config.scales)
    for scale in range(len(model.config.scales)):
        own = [forward for forward in forwards if forward.scale == scale]
        if sampling.smooth:
            f_hat = f_hat + loop.preview(own[0], f_hat)
        else:
            codes.append(loop.scale(own, f_hat))
            f_hat = f_hat + tokenizer.quantize.contribution(model.config.scales, scale, codes[-1])
        if on_scale:
            on_scale(scale, f_hat)
    return Sampled(None if sampling.smooth else torch.cat(codes, dim=1), f_hat)


class _Loop:
    """One request's constants, and what is done with each scale."""

    def __init__(
        self,
        model: HMAR,
        tokenizer: Tokenizer,
        draws: Draws,
        first_index: int,
        labels: Tensor,
        sampling: SamplingConfig,
        kept: Kept | None,
        forced: Forced,
        on_forward: OnForward | None,
    ) -> None:
        self.model = model
        self.quantize = tokenizer.quantize
        self.scales = model.config.scales
        self.draws = draws
        self.images = np.arange(first_index, first_index + len(labels))
        self.sampling = sampling
        self.kept = kept
        self.forced = forced
        self.on_forward = on_forward
        null = torch.full_like(labels, model.config.classes)
        # Once for the whole image: the class decides all of it. Rows are [conditional; unconditional].
        self.conditions = model.conditions(torch.cat([labels, null]) if sampling.guidance else labels)
        self.attends: list[Attend] | None = Cache(model.config.depth).attends() if sampling.all_scales else None

    def empty(self) -> Tensor:
        """Return the latent before the first scale."""
        side = self.scales.side
        shape = (len(self.images), self.model.config.latent_channels, side, side)
        return torch.zeros(shape, device=self.model.pos_1LC.device)

    def scale(self, forwards: Sequence[Forward], f_hat: Tensor) -> Tensor:
        """Predict a scale's codes (B, T) and redraw the least confident as its schedule says."""
        codes, masked = self._start(forwards[0].scale)
        edited = masked.sum(dim=1).cpu().numpy()
        for forward in forwards:
            x = self._input(forward, f_hat, codes, masked)
            cond, uncond, logits, keep = self._logits(forward, x)
            uniforms = self.draws.uniforms(forward.scale, forward.step, self.images, codes.shape[1])
            drawn, confidence = draw_codes(logits, keep, torch.from_numpy(uniforms).to(codes.device))
            if (forward.scale, forward.step) in self.forced:
                drawn, confidence = self._forced(forward, logits, keep)
            codes = torch.where(masked, drawn, codes)
            if self.on_forward:
                which = masked if forward.step else None
                seen = (x[: len(codes)], cond, uncond, logits, keep, drawn, confidence, which, codes)
                self.on_forward(Observed(forward, *seen))
            if forward.remasked:
                counts = torch.from_numpy(edited_share(forward.remasked, codes.shape[1], edited))
                masked = least_confident(confidence, counts.to(codes.device), masked)
                if not masked.any():
                    break
        return codes

    def preview(self, forward: Forward, f_hat: Tensor) -> Tensor:
        """Return what a scale adds to the latent of a smooth preview: codes' vectors mixed, none drawn."""
        x = self._input(forward, f_hat)
        cond, uncond, logits, keep = self._logits(forward, x)
        noise = self.draws.gumbel(forward.scale, self.images, logits.shape[1], logits.shape[2])
        ratio = forward.scale / (len(self.scales) - 1)
        mixed = smooth_weights(logits, keep, torch.from_numpy(noise).to(logits.device), ratio)
        if self.on_forward:
            self.on_forward(Observed(forward, x[: len(f_hat)], cond, uncond, logits, keep, None, None, None, None))
        return self.quantize.spread(self.scales, forward.scale, mixed @ self.quantize.embedding.weight)

    def _start(self, scale: int) -> tuple[Tensor, Tensor]:
        """Return a scale's codes before it is drawn, and the cells to draw, both (B, T): all, or those of an edit."""
        device = self.model.pos_1LC.device
        if self.kept is not None:
            parts = (array[:, self.scales.span(scale)] for array in (self.kept.codes, self.kept.edited))
            codes, masked = (torch.from_numpy(part).to(device) for part in parts)
            return codes, masked
        shape = (len(self.images), self.scales.cells[scale])
        return torch.zeros(shape, dtype=torch.int64, device=device), torch.ones(shape, dtype=torch.bool, device=device)

    def _input(
        self, forward: Forward, f_hat: Tensor, codes: Tensor | None = None, masked: Tensor | None = None
    ) -> Tensor:
        """Tokens of a forward: (B, T, C), at scale 0 one for each row of the conditions."""
        if not forward.scale:
            return self.model.first_input(self.conditions.cond)
        ahead = scale_tokens(self.scales, forward.scale, f_hat)
        if not forward.step or codes is None or masked is None:
            return self.model.scale_input(forward.scale, ahead)
        part = self.quantize.contribution(self.scales, forward.scale, codes)
        own = scale_tokens(self.scales, forward.scale, part)
        return self.model.masked_input(forward.scale, ahead, own, masked)

    def _logits(self, forward: Forward, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Run the forward's network; return both halves' logits, those after guidance, and which codes survive."""
        network: Network = "masked" if forward.step else "next-scale"
        batch = len(self.images)
        rows = batch * forward.halves
        conditions = self.conditions
        if rows < len(conditions.cond):
            conditions = type(conditions)(
                conditions.cond[:rows], conditions.blocks[:, :rows], conditions.heads[:, :rows]
            )
        x = x[:rows] if len(x) > batch else x.repeat(forward.halves, 1, 1)
        every = self.model.run(x, conditions, network, self.attends).float()
        cond, uncond = every[:batch], every[batch:] if forward.halves > 1 else None
        logits = cond if uncond is None else guided(cond, uncond, forward.guidance)
        return cond, uncond, logits, surviving(logits, self.sampling.top_k, self.sampling.top_p)

    def _forced(self, forward: Forward, logits: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Codes that a recording says were drawn, and their probabilities here."""
        drawn = torch.from_numpy(self.forced[forward.scale, forward.step][self.images]).to(logits.device)
        kept = logits.double().masked_fill(~keep, -torch.inf)
        return drawn, kept.softmax(dim=-1).gather(-1, drawn[..., None])[..., 0].float()
