"""Defines the knobs of one generation: steps, guidance, temperature. The eager sampler and the runtime share them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Literal, TypedDict, get_args

from himar_kernels.arithmetic.draws import Phase
from himar_kernels.families.settings import (
    given_changes,
    list_of,
    named_settings,
    scale_number,
    settings_from_dict,
    whole_number,
)
from himar_kernels.shared.errors import InputError

from .forecast import MOST_ORDER, WIDEST_SECOND_ORDER, Evaluations

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
        low_diffusion_counts, high_diffusion_counts: a chain length for each autoregressive step of the phase, in place
            of the one for all; empty where there is that one (DiSA, arXiv 2505.20297, has fewer where more is known).
        low_guidances, high_guidances: a scale for each autoregressive step, in place of scale and schedule; or empty.
        least_guidance: steps whose scale is below it run the conditional half alone, as at 1.0.
        low_forecast, high_forecast: the head is evaluated at every so many-th index of its chain and forecast between
            (himar_kernels.families.hi_mar.forecast); 1 evaluates all.
        forecast_order: of a forecast: 0 repeats the last evaluation, 1 continues the last two, 2 the last three.
        forecast_first, forecast_last: how many indices at either end of a chain are all evaluated.
        guidance_interval: every so many-th evaluation under guidance runs both halves, the others the conditional one
            with the difference that was kept; 1 runs both always.
        modulation_interval: a DiT head's modulations are made at every so many-th evaluation and held in between; 1
            holds none. Other heads do without.
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
    low_diffusion_counts: tuple[int, ...] = ()
    high_diffusion_counts: tuple[int, ...] = ()
    low_guidances: tuple[float, ...] = ()
    high_guidances: tuple[float, ...] = ()
    least_guidance: float = 0.0
    low_forecast: int = 1
    high_forecast: int = 1
    forecast_order: int = 1
    forecast_first: int = 8
    forecast_last: int = 3
    guidance_interval: int = 1
    modulation_interval: int = 1

    def __post_init__(self) -> None:
        # NumPy's scalars are welcome but not kept: they would change the precision of the arithmetic.
        for name in ("low_steps", "high_steps"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), 1))
        for name in ("low_diffusion_steps", "high_diffusion_steps"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), 2, 1000))
        for name in ("low_guidance", "high_guidance", "temperature", "least_guidance"):
            object.__setattr__(self, name, scale_number(name, getattr(self, name)))
        for name, least, most in _EVALUATIONS:
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least, most))
        for phase, steps in (("low", self.low_steps), ("high", self.high_steps)):
            self._check_list(f"{phase}_diffusion_counts", "counts", steps, lambda n, v: whole_number(n, v, 2, 1000))
            self._check_list(f"{phase}_guidances", "scales", steps, scale_number)
        if self.guidance_schedule not in get_args(GuidanceSchedule):
            raise InputError(f"guidance_schedule is {self.guidance_schedule!r}; it must be 'linear' or 'constant'.")
        for name in ("low_solver", "high_solver"):
            if getattr(self, name) not in get_args(Solver):
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be 'ddpm', 'ddim' or 'dpm++'.")
        if "ddpm" not in (self.low_solver, self.high_solver):
            self._require_no_temperature()
        self._check_forecast()

    def _check_list(self, name: str, kind: str, steps: int, check: Callable[[str, Any], Any]) -> None:
        """Keep a list as a checked tuple; InputError unless it is empty or has a value for each of a phase's steps."""
        values = list_of(name, getattr(self, name), check)
        if values and len(values) != steps:
            given = kind.removesuffix("s") if len(values) == 1 else kind
            raise InputError(
                f"{name} has {len(values)} {given}, but {name.split('_')[0]}_steps is {steps}; give one for each step."
            )
        object.__setattr__(self, name, values)

    def _check_forecast(self) -> None:
        intervals = {"low_forecast": self.low_forecast, "high_forecast": self.high_forecast}
        name, widest = max(intervals.items(), key=lambda item: item[1])
        if widest == 1:
            for each, value in (("order", 1), ("first", 8), ("last", 3)):
                given = getattr(self, f"forecast_{each}")
                if given != value:
                    raise InputError(
                        f"forecast_{each} is {given}, but no phase is forecast; set low_forecast or high_forecast to 2 "
                        f"or more, or leave it out."
                    )
        if self.forecast_order == MOST_ORDER and widest > WIDEST_SECOND_ORDER:
            raise InputError(
                f"{name} is {widest} and forecast_order is {MOST_ORDER}, which diverges over such gaps: 33 % of the "
                f"digits were recognised (docs/forecast.md); use order 1, or an interval up to {WIDEST_SECOND_ORDER}."
            )

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
        """Return a copy with every change that is not None applied and checked.

        A change to what a list stands in place of takes the list away, unless another one is given.
        """
        given = {key: value for key, value in changes.items() if value is not None}
        for phase in ("low", "high"):
            for name, replaced in (
                ("diffusion_counts", (f"{phase}_diffusion_steps",)),
                ("guidances", (f"{phase}_guidance", "guidance_schedule")),
            ):
                if any(each in given for each in replaced):
                    given.setdefault(f"{phase}_{name}", ())
        return replace(self, **given)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values; those that earlier readers do not know where they differ alone."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if name not in _LATER or value != _DEFAULTS[name]
        }

    def evaluations(self, phase: Phase) -> Evaluations:
        """Return which evaluations of a phase's head its chain runs."""
        interval = self.low_forecast if phase == "low" else self.high_forecast
        return Evaluations(
            interval,
            self.forecast_order,
            self.forecast_first,
            self.forecast_last,
            self.guidance_interval,
            self.modulation_interval,
        )

    def diffusion_counts(self, phase: Phase) -> tuple[int, ...]:
        """Return the chain length of each autoregressive step of a phase."""
        if phase == "low":
            return self.low_diffusion_counts or (self.low_diffusion_steps,) * self.low_steps
        return self.high_diffusion_counts or (self.high_diffusion_steps,) * self.high_steps

    def solver(self, phase: Phase) -> Solver:
        """Return the solver of a phase's head."""
        return self.low_solver if phase == "low" else self.high_solver

    @property
    def needs_solvers(self) -> bool:
        """True where a phase has another solver than "ddpm", which readers before solvers would take it for."""
        return (self.low_solver, self.high_solver) != ("ddpm", "ddpm")

    @property
    def needs_evaluations(self) -> bool:
        """True where a field differs that readers before forecasts and lists do not know, and so would ignore."""
        return any(getattr(self, name) != _DEFAULTS[name] for name in _LATER if name not in _SOLVERS)

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
    low_diffusion_counts: Sequence[int] | None
    high_diffusion_counts: Sequence[int] | None
    low_guidances: Sequence[float] | None
    high_guidances: Sequence[float] | None
    least_guidance: float | None
    low_forecast: int | None
    high_forecast: int | None
    forecast_order: int | None
    forecast_first: int | None
    forecast_last: int | None
    guidance_interval: int | None
    modulation_interval: int | None


_EVALUATIONS = (
    ("low_forecast", 1, 1000),
    ("high_forecast", 1, 1000),
    ("forecast_order", 0, MOST_ORDER),
    ("forecast_first", 1, 1000),
    ("forecast_last", 1, 1000),
    ("guidance_interval", 1, 1000),
    ("modulation_interval", 1, 1000),
)
"""Whole numbers that say which evaluations run, with their least and largest values."""

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


def require_dit_head(settings: SamplingConfig, heads: Collection[str], holder: str) -> None:
    """Raise InputError for held modulations of a model without a DiT head. heads: kinds of its phases' heads."""
    if settings.modulation_interval > 1 and "dit" not in heads:
        raise InputError(
            f"modulation_interval is {settings.modulation_interval}, but {holder} has no DiT head, whose modulations "
            f"could be held; leave it out."
        )


def in_phases(*phases: str, **values: Any) -> dict[str, Any]:
    """Return changes that give each of these phases the same values, for example in_phases("low", "high", steps=8)."""
    return {f"{phase}_{name}": value for phase in phases for name, value in values.items()}


_SOLVERS = ("low_solver", "high_solver")
_DEFAULTS = {field.name: field.default for field in fields(SamplingConfig) if field.default is not MISSING}
# Fields that readers from before them would not know, in the order in which they came.
_LATER = (*_SOLVERS, *tuple(_DEFAULTS)[tuple(_DEFAULTS).index("high_solver") + 1 :])
