"""Defines the knobs of one generation: steps, guidance, temperature. The eager sampler and the runtime share them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypedDict, get_args

from himar_kernels.families.settings import (
    given_changes,
    named_settings,
    scale_number,
    settings_from_dict,
    whole_number,
)
from himar_kernels.shared.errors import InputError

GuidanceSchedule = Literal["linear", "constant"]
Solver = Literal["ddpm", "ddim", "dpm++"]


@dataclass(frozen=True)
class SamplingConfig:
    """How the two-phase loop samples (docs/model.md §5-6). Immutable; `replace` makes a changed copy.

    Attributes:
        low_steps, high_steps: autoregressive steps of each phase; 1 … positions of the phase.
        low_guidance, high_guidance: guidance scale of each phase; at 1.0 the conditional half runs alone.
        guidance_schedule: "linear" grows from near 1 to the scale over a phase, "constant" does not.
        temperature: factor on the noise of every reverse step (never on the initial noise). Where no phase adds noise
            it must be 1.
        low_diffusion_steps, high_diffusion_steps: length of the MLP and of the DiT head's chain, 2 … 1000.
        low_solver, high_solver: how each phase's head goes down its chain: "ddpm" is the paper's reverse step, "ddim"
            and "dpm++" need fewer steps and add no noise (himar_kernels.families.hi_mar.solvers).
    """

    low_steps: int = 32
    high_steps: int = 4
    low_guidance: float = 1.0
    high_guidance: float = 1.0
    guidance_schedule: GuidanceSchedule = "linear"
    temperature: float = 1.0
    low_diffusion_steps: int = 100
    high_diffusion_steps: int = 250
    low_solver: Solver = "ddpm"
    high_solver: Solver = "ddpm"

    def __post_init__(self) -> None:
        # NumPy's scalars are welcome but not kept: they would change the precision of the arithmetic.
        for name in ("low_steps", "high_steps"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), 1))
        for name in ("low_diffusion_steps", "high_diffusion_steps"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), 2, 1000))
        for name in ("low_guidance", "high_guidance", "temperature"):
            object.__setattr__(self, name, scale_number(name, getattr(self, name)))
        if self.guidance_schedule not in get_args(GuidanceSchedule):
            raise InputError(f"guidance_schedule is {self.guidance_schedule!r}; it must be 'linear' or 'constant'.")
        for name in ("low_solver", "high_solver"):
            if getattr(self, name) not in get_args(Solver):
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be 'ddpm', 'ddim' or 'dpm++'.")
        if "ddpm" not in (self.low_solver, self.high_solver):
            self._require_no_temperature()

    def _require_no_temperature(self) -> None:
        if self.temperature != 1:
            raise InputError(
                f"temperature is {self.temperature}, but it scales the noise of reverse steps and solver "
                f"{self.high_solver!r} adds none; set it to 1, or a phase's solver to 'ddpm'."
            )

    def check_positions(self, low: int, high: int) -> None:
        """Raise InputError unless every step of each phase can reveal at least one of its positions.

        low: 0 where a model has a single scale and so no phase low, whose solver then makes no use of a temperature.
        """
        if low == 0 and self.high_solver != "ddpm":
            self._require_no_temperature()
        for phase, steps, positions in (("low", self.low_steps, low), ("high", self.high_steps, high)):
            if steps > positions and (phase, positions) != ("low", 0):
                raise InputError(
                    f"{phase}_steps is {steps}, but phase {phase} has only {positions} positions; "
                    f"ask for 1 to {positions} steps."
                )

    def with_changes(self, **changes: Any) -> SamplingConfig:
        """Return a copy with every change that is not None applied and checked."""
        return replace(self, **{key: value for key, value in changes.items() if value is not None})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values; solvers other than "ddpm" alone, as readers before them expect."""
        return {name: value for name, value in asdict(self).items() if name not in _SOLVERS or value != "ddpm"}

    @property
    def needs_solvers(self) -> bool:
        """True where a phase has another solver than "ddpm", which readers before solvers would take it for."""
        return (self.low_solver, self.high_solver) != ("ddpm", "ddpm")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "sampling") -> SamplingConfig:
        """Build from JSON values; unknown keys are a ConfigError that names `source`."""
        return settings_from_dict(cls, values, source)


class SamplingChanges(TypedDict, total=False):
    """Single values that a caller replaces in a SamplingConfig; None leaves a value as it is."""

    low_guidance: float | None
    high_guidance: float | None
    guidance_schedule: GuidanceSchedule | None
    low_steps: int | None
    high_steps: int | None
    low_diffusion_steps: int | None
    high_diffusion_steps: int | None
    temperature: float | None
    low_solver: Solver | None
    high_solver: Solver | None


CHANGEABLE = tuple(SamplingChanges.__annotations__)


def choose_sampling(
    named: Mapping[str, SamplingConfig],
    sampling: str | SamplingConfig | None,
    guidance: float | None,
    changes: Mapping[str, Any],
    holder: str = "bundle",
) -> SamplingConfig:
    """Return the settings of a request.

    Args:
        named: the settings of a bundle or model, the first is the default.
        sampling: a name among them, settings of the caller's own, or None for the default.
        guidance: scale for both phases; a phase's own scale in `changes` overrides it.
        changes: SamplingChanges; None leaves a value.
        holder: what has the named settings, for the error.

    Raises InputError for an unknown name or a value out of range, or for a change that is no setting of the family.
    """
    settings = named_settings(SamplingConfig, named, sampling, holder)
    both = {"low_guidance": guidance, "high_guidance": guidance}
    return settings.with_changes(**both | given_changes(changes, CHANGEABLE, "a Hi-MAR model"))


def require_phase_low(changes: Mapping[str, Any], holder: str = "this bundle's model") -> None:
    """Raise InputError if a caller named a field of phase low, for a model that has a single scale and so none."""
    unheard = [name for name, value in changes.items() if name.startswith("low_") and value is not None]
    if unheard:
        raise InputError(f"{unheard[0]} is given, but {holder} has a single scale and so no phase low; leave it out.")


def in_phases(*phases: str, **values: Any) -> dict[str, Any]:
    """Return changes that give each of these phases the same values, for example in_phases("low", "high", steps=8)."""
    return {f"{phase}_{name}": value for phase in phases for name, value in values.items()}


_SOLVERS = ("low_solver", "high_solver")
