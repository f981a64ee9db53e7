"""Lists the settings that the study of solvers measures: the default, both phases alike, then each part by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.studies.study import DEFAULT, Setting
from himar_kernels.families.hi_mar.sampling import in_phases


@dataclass(frozen=True)
class Trial(Setting):
    """A setting of the study. solver: what its colour in the plot goes by."""

    solver: str


def trials() -> list[Trial]:
    """Return all settings, the default first."""
    found = [Trial(DEFAULT, {}, "ddpm"), _alike("ddpm", 8)]
    found += [_alike("ddim", steps) for steps in (4, 8)] + [_alike("dpm++", steps) for steps in (3, 4, 6, 8)]
    found += [_parts("dpm++", 8, 3), _parts("dpm++", 3, 8)]  # which of the phases asks for steps
    # Transformers and decoder are an eighth of the default's work, so a fifth takes fewer autoregressive steps too.
    found += [
        _parts("dpm++", low, high, low_steps=low_steps, high_steps=high_steps)
        for low, high, low_steps, high_steps in (
            (4, 3, 6, 2),
            (4, 4, 5, 2),
            (4, 4, 4, 2),
            (6, 6, 8, 1),
            (8, 8, 5, 1),
        )
    ]
    # Precision is what the default's temperature buys; other ways to it.
    mixed = {**_parts("dpm++", 6, 4, low_steps=4, high_steps=2).changes, **in_phases("low", solver="ddim")}
    found.append(Trial("ddim 6, dpm++ 4; 4 + 2 steps", mixed, "dpm++"))
    return [*found, *(_guided(low, high) for low, high in ((2.0, 2.25), (2.0, 1.75)))]


def _guided(low: float, high: float) -> Trial:
    base = _parts("dpm++", 4, 4, low_steps=4, high_steps=2)
    changes = {**base.changes, "low_guidance": low, "high_guidance": high}
    return Trial(f"{base.name}; guidance {low}, {high}", changes, base.solver)


def _alike(solver: str, steps: int) -> Trial:
    return _parts(solver, steps, steps)


def _parts(solver: str, low: int, high: int, **autoregressive: int) -> Trial:
    changes: dict[str, Any] = {"low_diffusion_steps": low, "high_diffusion_steps": high, **autoregressive}
    if solver != "ddpm":
        changes |= {**in_phases("low", "high", solver=solver), "temperature": 1.0}
    name = f"{solver} {low}" if low == high else f"{solver} {low}, {high}"
    if autoregressive:
        name += f"; {autoregressive['low_steps']} + {autoregressive['high_steps']} steps"
    return Trial(name, changes, solver)
