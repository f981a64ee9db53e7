"""Describes the phases of a model as data: which components run each, over which positions, and what they leave.

The released models have two: phase low reveals S positions with an MLP head and leaves pivots, phase high reveals N
with a DiT head. Variants (docs/model.md §8, the paper's table 5) have other heads, pivots that are the low tokens
themselves, or phase high alone. Export, loops and verification all read the same `PhaseInfo`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from himar_kernels.families.hi_mar import Phase
from himar_kernels.families.registry import TEXT_ENCODER, VAE_ENCODER
from himar_kernels.families.registry import VAE_DECODER as VAE_DECODER

Pivots = Literal["none", "visual", "condition"]
HeadKind = Literal["mlp", "dit"]
Context = Literal["class", "text"]
"""What the K context rows show: a class, or a text's context as its tower gives it."""


@dataclass(frozen=True)
class PhaseInfo:
    """One phase of a model.

    Attributes:
        name: "low" or "high".
        transformer, head: names of its components.
        kind: of its head. "mlp" samples the revealed positions one by one; "dit" denoises all positions around the
            known ones, and every masked position takes its result.
        side, positions: of its grid, n = side².
        always: positions before them that every step knows: the S pivots in phase high.
        tokens: the transformer's input of the phase's tokens (R, n, C).
        leaves_pivots: its transformer gives z (R, n, D) as `pivots`; rows that a step reveals are kept.
        pivot_width: width of the transformer's input `pivots`, 0 where it has none.
    """

    name: Phase
    transformer: str
    head: str
    kind: HeadKind
    side: int
    always: int
    tokens: str
    leaves_pivots: bool
    pivot_width: int

    @property
    def positions(self) -> int:
        """n, the positions that the phase reveals."""
        return self.side**2

    @property
    def held(self) -> tuple[str, str] | None:
        """Names of the two components that a DiT head comes in besides, for held modulations; a bundle may have them.

        One makes the modulations, the other takes them. None for other heads.
        """
        return (f"{self.head}_modulations", f"{self.head}_held") if self.kind == "dit" else None


def model_phases(
    pivots: Pivots, low_head: HeadKind, high_head: HeadKind, *, low_side: int, high_side: int, width: int, channels: int
) -> tuple[PhaseInfo, ...]:
    """Return a model's phases in order; with pivots "none" phase high is the only one.

    width: D, of condition pivots; channels: C, of visual ones, which are the low tokens.
    """
    released = (pivots, low_head, high_head) == ("condition", "mlp", "dit")

    def head(kind: HeadKind, phase: Phase) -> str:
        # Bundles of other phases lack the released names, so a reader that knows these phases alone refuses them.
        return f"{kind}_head" if released else f"{kind}_head_{phase}"

    given = {"none": 0, "visual": channels, "condition": width}[pivots]
    low = PhaseInfo(
        "low", "transformer_low", head(low_head, "low"), low_head, low_side, 0, "low_tokens", pivots == "condition", 0
    )
    high = PhaseInfo(
        "high",
        "transformer_high",
        head(high_head, "high"),
        high_head,
        high_side,
        0 if pivots == "none" else low.positions,
        "tokens",
        False,
        given,
    )
    return (high,) if pivots == "none" else (low, high)


class PhaseSizes:
    """What follows from a model's sizes; for dataclasses with these fields (docs/model.md §1)."""

    width: int
    cond_scale: int
    img_size: int
    vae_stride: int
    channels: int
    pivots: Pivots
    low_head: HeadKind
    high_head: HeadKind
    buffer: int
    context: Context = "class"
    context_width: int = 0

    @property
    def phases(self) -> tuple[PhaseInfo, ...]:
        """The phases in order, each with its components."""
        return model_phases(
            self.pivots,
            self.low_head,
            self.high_head,
            low_side=self.cond_scale,
            high_side=self.grid,
            width=self.width,
            channels=self.channels,
        )

    def phase(self, name: Phase) -> PhaseInfo:
        """Return the phase of this name; the model must have it."""
        return next(phase for phase in self.phases if phase.name == name)

    @property
    def single_scale(self) -> bool:
        """True when there is no phase low."""
        return self.pivots == "none"

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the components that every bundle of the model has, in the order in which they run."""
        return tuple(name for phase in self.phases for name in (phase.transformer, phase.head))

    @property
    def optional(self) -> tuple[str, ...]:
        """Names of the components that a bundle may have."""
        return (VAE_DECODER,)

    @property
    def deferred(self) -> tuple[str, ...]:
        """Names of the components that are loaded when a request first needs them.

        They are the tower of a text model, the parts of a DiT head whose modulations can be held, and what edits run.
        """
        tower = () if self.context_shape is None else (TEXT_ENCODER,)
        return (*tower, *(name for phase in self.phases for name in phase.held or ()), *self.editing)

    @property
    def editing(self) -> tuple[str, ...]:
        """Names of the components that edits need besides: the encoder, and phase high's transformer with guides."""
        return (VAE_ENCODER,) if self.edit_transformer is None else (VAE_ENCODER, self.edit_transformer)

    @property
    def edit_transformer(self) -> str | None:
        """The transformer that runs phase high where low positions are known, which have no pivots.

        It is phase high's with an input more, `guides` int64 (R, S): rows of a table, which holds the projected pivots
        (R·S) and after them the learned placeholders (S). None where pivots are visual, which known positions have too,
        and with a single scale.
        """
        return "transformer_high_edit" if self.pivots == "condition" else None

    @property
    def context_shape(self) -> tuple[int, int] | None:
        """K and W of the context (K, W) that a text model has of each image; None where an image is of a class."""
        return (self.buffer, self.context_width) if self.context == "text" else None

    @property
    def positions(self) -> int:
        """L = S + N, the positions that the decoder predicts."""
        return self.low_positions + self.high_positions

    @property
    def grid(self) -> int:
        """Side h = w of the high-resolution token grid."""
        return self.img_size // self.vae_stride

    @property
    def low_positions(self) -> int:
        """S, positions of phase low."""
        return self.cond_scale**2

    @property
    def high_positions(self) -> int:
        """N, positions of phase high."""
        return self.grid**2


@dataclass(frozen=True)
class ModelInfo(PhaseSizes):
    """The sizes that the loop needs (docs/model.md §1): names as in the model's configuration.

    pivots, low_head, high_head: what its phases are (see `phases`). With pivots "none" there is a single scale:
    cond_scale is 0, and low_head says nothing. context: what the context rows are made of, a class repeated, or a
    text's rows of context_width; with "text" classes is 0, with "class" context_width.
    """

    width: int
    classes: int
    buffer: int
    cond_scale: int
    img_size: int
    vae_stride: int
    vae_scale: float
    channels: int
    pivots: Pivots = "condition"
    low_head: HeadKind = "mlp"
    high_head: HeadKind = "dit"
    context: Context = "class"
    context_width: int = 0
