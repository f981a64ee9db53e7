"""Does what lies between Hi-MAR's networks: schedule, index lists, diffusion steps, solvers (docs/model.md §5-6).

Needs NumPy only. Shapes and symbols are those of docs/model.md §1: B, R, S, N, L, K, C.
"""

from himar_kernels.arithmetic.draws import Phase
from himar_kernels.shared.recordings import load_recording

from .device_state import STEP_STATE, chain_table, describe_fault, step_state
from .diffusion import BASE_STEPS, Chain, dit_reverse_step, guided, mlp_reverse_step, renoise_known
from .editing import DILATION, Known, drawn_counts, drawn_positions, edit_order, edit_plan, edit_sampling, guide_rows
from .forecast import Evaluations, Predictions
from .index_lists import IndexLists, index_lists, known_positions, revealed_positions
from .recording import RecordedDraws, RecordedRequest, recorded_cases, recorded_request
from .sampling import GuidanceSchedule, SamplingConfig, Solver
from .schedule import Step, guidance_at, masked_counts, plan, plan_phase
from .sites import Sites
from .solvers import (
    AnyChain,
    SolverChain,
    build_chain,
    dit_head_step,
    mlp_head_step,
    phase_chains,
    solver_step,
    step_chain,
)

__all__ = [
    "BASE_STEPS",
    "DILATION",
    "STEP_STATE",
    "AnyChain",
    "Chain",
    "Evaluations",
    "GuidanceSchedule",
    "IndexLists",
    "Known",
    "Phase",
    "Predictions",
    "RecordedDraws",
    "RecordedRequest",
    "SamplingConfig",
    "Sites",
    "Solver",
    "SolverChain",
    "Step",
    "build_chain",
    "chain_table",
    "describe_fault",
    "dit_head_step",
    "dit_reverse_step",
    "drawn_counts",
    "drawn_positions",
    "edit_order",
    "edit_plan",
    "edit_sampling",
    "guidance_at",
    "guide_rows",
    "guided",
    "index_lists",
    "known_positions",
    "load_recording",
    "masked_counts",
    "mlp_head_step",
    "mlp_reverse_step",
    "phase_chains",
    "plan",
    "plan_phase",
    "recorded_cases",
    "recorded_request",
    "renoise_known",
    "revealed_positions",
    "solver_step",
    "step_chain",
    "step_state",
]
