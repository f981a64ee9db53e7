"""Lays out what the kernels keep on the device between launches: a step's state, a chain's table, the fault word.

The layouts are those of `cuda/state.cuh`, `cuda/diffusion.cuh` and `cuda/solver.cuh`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels.arithmetic.draws import Phase
from himar_kernels.shared.errors import InputError

from .diffusion import Chain, check_chain_length
from .schedule import Step
from .solvers import AnyChain

# struct StepState, 64 bytes: where an autoregressive step and its diffusion stand.
STEP_STATE = np.dtype(
    {
        "names": [
            "phase", "step", "masked", "revealed", "chain_length", "k", "guidance", "temperature", "tickets",
            "evaluations", "evaluated_at",
        ],
        "formats": ["<u4", "<u4", "<u4", "<u4", "<u4", "<u4", "<f4", "<f4", "<u4", "<u4", "<u4"],
        "offsets": [0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40],
        "itemsize": 64,
    }
)  # fmt: skip

# Columns of a chain's table on the device, in the order of struct ChainRow.
CHAIN_COLUMNS = (
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "x_scale",
    "noise_scale",
    "mean_start",
    "mean_x",
    "log_beta",
    "log_posterior",
)

# The same of a solver's chain, in the order of struct SolverRow; a last column is 0.
SOLVER_COLUMNS = (*CHAIN_COLUMNS[:4], "x_weight", "start_weight", "previous_weight")

# Component c of a fault word is FAULT_COMPONENTS[c - 1]. The first heads are those of the released models, MLP in phase
# low and DiT in phase high; the two after the decoder are heads of the other kind in a phase.
FAULT_COMPONENTS = (
    "transformer_low", "transformer_high", "mlp_head", "dit_head", "vae_decoder", "mlp_head_high", "dit_head_low",
    "text_encoder",
)  # fmt: skip

HEAD_FAULTS: Mapping[tuple[str, Phase], str] = {
    ("mlp", "low"): "mlp_head",
    ("dit", "high"): "dit_head",
    ("mlp", "high"): "mlp_head_high",
    ("dit", "low"): "dit_head_low",
}
"""Which fault component is the head of a kind in a phase; a bundle's manifest may give that head another name."""

PHASE_CODES: dict[Phase, int] = {"low": 0, "high": 1}
_MOST_STEP = 0xFFFF


def step_state(step: Step, temperature: float) -> NDArray[Any]:
    """Return the state that a step's kernels start from: one STEP_STATE record, shape ().

    k starts at the end of the step's chain. Raises InputError for a step or chain that the kernels cannot count.
    """
    if not 0 <= step.index <= _MOST_STEP:
        raise InputError(f"step {step.index} is requested from the draws; it must be 0 to {_MOST_STEP}.")
    if not 1 <= step.revealed <= step.masked:
        raise InputError(f"a step reveals {step.revealed} of {step.masked} masked positions; it must be 1 to all.")
    check_chain_length(step.diffusion_steps)
    state = np.zeros((), STEP_STATE)
    state["phase"] = PHASE_CODES[step.phase]
    state["step"] = step.index
    state["masked"] = step.masked
    state["revealed"] = step.revealed
    state["chain_length"] = step.diffusion_steps
    state["k"] = step.diffusion_steps - 1
    state["guidance"] = step.guidance
    state["temperature"] = temperature
    return state


def chain_table(chain: AnyChain) -> NDArray[np.float32]:
    """Return a chain's float32 tables side by side, (n, 8): columns of CHAIN_COLUMNS, or of SOLVER_COLUMNS and a 0."""
    if isinstance(chain, Chain):
        return np.stack([getattr(chain, name) for name in CHAIN_COLUMNS], axis=1)
    columns = [getattr(chain, name) for name in SOLVER_COLUMNS]
    return np.stack([*columns, np.zeros_like(columns[0])], axis=1)


def describe_fault(word: int) -> tuple[str, int]:
    """Return the component and the autoregressive step that a fault word names.

    The step of vae_decoder is 0. Raises InputError for 0, which is not a fault, and for a word no kernel writes.
    """
    component, step = word & 0xFF, word >> 8
    if not 1 <= component <= len(FAULT_COMPONENTS):
        raise InputError(f"the fault word {word} names component {component}; it must be 1 to {len(FAULT_COMPONENTS)}.")
    return FAULT_COMPONENTS[component - 1], step
