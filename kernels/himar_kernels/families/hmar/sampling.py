"""The knobs of one generation: guidance, filters, schedule. Shared by the eager sampler and the runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from himar_kernels.families.settings import (
    given_changes,
    named_settings,
    real_number,
    scale_number,
    settings_from_dict,
    whole_number,
)
from himar_kernels.shared.errors import InputError

from .scales import Scales

Schedule = tuple[tuple[int, ...], ...]

RELEASED_SCHEDULE: Schedule = ((1,), (1, 3), (1, 1, 2, 5))
"""Of released sampling and evaluation at 256 px; fits every list of sides that begins 1, 2, 3."""


@dataclass(frozen=True)
class SamplingConfig:
    """How the loop over scales samples (docs/hmar-model.md §5). Immutable; `with_changes` makes a changed copy.

    Attributes:
        guidance: scale g of classifier-free guidance: weight 1 + g·s/(S-1) on the conditional logits of scale s; 0
            disables guidance.
        top_k: codes that the first filter keeps; 0 keeps all.
        top_p: probability that the second filter keeps, above 0 to 1; 1 keeps all.
        schedule: per scale, the counts of cells that its forwards fix: the first of the prediction, the others of
            masked steps. Scales that it does not name have one entry, their cells; () means no masked steps.
        mask_guidance: g is multiplied by this in masked steps. The released code has 1e-6, in effect no guidance at the
            cost of the unconditional rows; 0 leaves them out.
        all_scales: each cell also attends to all coarser scales (VAR); masked steps are not defined there.
        smooth: mix codes' vectors instead of drawing codes, for previews in training; without masked steps.
    """

    guidance: float = 1.5
    top_k: int = 900
    top_p: float = 0.96
    schedule: Schedule = ()
    mask_guidance: float = 1e-6
    all_scales: bool = False
    smooth: bool = False

    def __post_init__(self) -> None:
        # NumPy's scalars are welcome but not kept: they would change the precision of the arithmetic.
        for name in ("guidance", "mask_guidance"):
            object.__setattr__(self, name, scale_number(name, getattr(self, name)))
        object.__setattr__(self, "top_k", whole_number("top_k", self.top_k, 0))
        object.__setattr__(self, "top_p", real_number("top_p", self.top_p))
        object.__setattr__(self, "schedule", _schedule(self.schedule))
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p:g}; it must be above 0 and at most 1, where 1 keeps every code.")
        for name in ("all_scales", "smooth"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be true or false.")
            if getattr(self, name) and self.masks:
                raise InputError(
                    f"{name} is set, but masked steps are not defined with it; give every scale a single entry in "
                    f"schedule, or leave schedule empty."
                )

    @property
    def masks(self) -> bool:
        """True where a scale has masked steps."""
        return any(len(counts) > 1 for counts in self.schedule)

    def counts(self, scales: Scales) -> Schedule:
        """Return the counts of every scale of a model. Raises InputError where they do not fit (`check_model`)."""
        if len(self.schedule) > len(scales):
            raise InputError(
                f"schedule has lists for {len(self.schedule)} scales, but the model has {len(scales)}; leave "
                f"the others out."
            )
        for scale, counts in enumerate(self.schedule):
            cells = scales.cells[scale]
            if sum(counts) != cells:
                raise InputError(
                    f"schedule of scale {scale} is {list(counts)}, which sums to {sum(counts)}, but the scale has "
                    f"{cells} cells; correct the counts."
                )
            if scale == 0 and len(counts) > 1:
                raise InputError(
                    f"schedule of scale 0 is {list(counts)}, but that scale has no masked steps; give [{cells}]."
                )
        return self.schedule + tuple((cells,) for cells in scales.cells[len(self.schedule) :])

    def check_model(self, scales: Scales, vocab: int) -> None:
        """Raise InputError unless the schedule fits the scales, and top_k the number of codes."""
        self.counts(scales)
        if self.top_k > vocab:
            raise InputError(f"top_k is {self.top_k}, but the model has {vocab} codes; ask for 0 (all) to {vocab}.")

    def with_changes(self, **changes: Any) -> SamplingConfig:
        """Return a copy with every change that is not None applied and checked."""
        return replace(self, **{key: value for key, value in changes.items() if value is not None})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return {**asdict(self), "schedule": [list(counts) for counts in self.schedule]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "sampling") -> SamplingConfig:
        """Build from JSON values; unknown keys are a ConfigError that names `source`."""
        return settings_from_dict(cls, values, source)


CHANGEABLE = ("guidance", "top_k", "top_p", "schedule", "mask_guidance", "all_scales", "smooth")
"""Settings of which a request may replace single ones."""


def choose_sampling(
    named: Mapping[str, SamplingConfig],
    sampling: str | SamplingConfig | None,
    changes: Mapping[str, Any],
    holder: str = "bundle",
) -> SamplingConfig:
    """Return the settings of a request.

    Args:
        named: the settings of a bundle or model, the first is the default.
        sampling: a name among them, settings of the caller's own, or None for the default.
        changes: single values by the names in CHANGEABLE; None leaves a value.
        holder: what has the named settings, for the error.

    Raises InputError for an unknown name or a value out of range, or for a change that is no setting of the family.
    """
    settings = named_settings(SamplingConfig, named, sampling, holder)
    return settings.with_changes(**given_changes(changes, CHANGEABLE, "an HMAR model"))


def recorded_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as recordings and the released code spell them under our names (tests/golden/README.md).

    `cfg` is guidance, beside which a top_p of 0 is off; `mask` false drops the schedule; `batch` and `forwards` say
    nothing. Settings in our own spelling stay as they are, so that a slip in them is refused.
    """
    own = {{"cfg": "guidance"}.get(name, name): value for name, value in values.items()}
    masks = own.pop("mask", True)
    for name in ("batch", "forwards"):
        own.pop(name, None)
    if "cfg" in values and own.get("top_p") == 0:
        own["top_p"] = 1.0
    if masks is False or ("schedule" in own and own["schedule"] is None):
        own["schedule"] = ()
    return own


def _schedule(given: Any) -> Schedule:
    shown = f"{given!r:.80}"
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise InputError(f"schedule is {shown}; give a list of counts for each scale, for example [[1], [1, 3]].")
    lists = []
    for scale, counts in enumerate(given):
        if isinstance(counts, str) or not isinstance(counts, Sequence) or not counts:
            raise InputError(f"schedule of scale {scale} is {counts!r:.80}; give a list of counts, for example [1, 3].")
        lists.append(
            tuple(
                whole_number(f"schedule of scale {scale}", count, 0 if i == 0 else 1) for i, count in enumerate(counts)
            )
        )
    return tuple(lists)
