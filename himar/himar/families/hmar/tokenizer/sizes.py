"""The sizes of a tokenizer, and those that a model's configuration asks for. Needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from himar_kernels import ConfigError

from ..config import ModelConfig


@dataclass(frozen=True)
class TokenizerConfig:
    """Sizes of a tokenizer; the defaults are the released one's.

    ch: base width; ch_mult: width factor per level, the first at image resolution; latent_channels Cv and vocab V: of
    the codes; groups: of every GroupNorm, which shapes cannot tell; num_res_blocks: residual blocks per encoder level
    (decoder levels have one more); attention_levels: levels of both halves with attention.
    """

    ch: int = 160
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    latent_channels: int = 32
    vocab: int = 4096
    groups: int = 32
    num_res_blocks: int = 2
    attention_levels: tuple[int, ...] = (4,)

    def __post_init__(self) -> None:
        if not self.ch_mult or min(*self.ch_mult, self.ch, self.latent_channels, self.vocab, self.num_res_blocks) < 1:
            raise ConfigError(f"{self} has a size below 1; every size must be at least 1.")
        if self.groups < 1 or self.ch % self.groups:
            raise ConfigError(
                f"the tokenizer's width {self.ch} is not a multiple of its {self.groups} norm groups; give vae_groups "
                f"in the configuration."
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.ch * factor for factor in self.ch_mult)

    @property
    def stride(self) -> int:
        """Image pixels per side of a cell of the latent."""
        return 2 ** (len(self.ch_mult) - 1)


def tokenizer_of(config: ModelConfig) -> TokenizerConfig:
    """Return the sizes of a tokenizer for a model; what its configuration leaves open is the released one's.

    Raises ConfigError for a vae_stride that is not a power of 2: every level but the first halves the sides.
    """
    levels = config.vae_stride.bit_length()
    if config.vae_stride != 2 ** (levels - 1):
        raise ConfigError(f"vae_stride is {config.vae_stride}; a tokenizer's is a power of 2.")
    released = TokenizerConfig()
    factors = (1,) * (levels - len(released.ch_mult)) + released.ch_mult[1:]
    return TokenizerConfig(
        ch=released.ch if config.vae_ch is None else config.vae_ch,
        ch_mult=(1, *factors[len(factors) + 1 - levels :]),
        latent_channels=config.latent_channels,
        vocab=config.vocab,
        groups=config.vae_groups,
        attention_levels=(levels - 1,),
    )
