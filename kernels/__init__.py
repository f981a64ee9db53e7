"""Everything between the networks: schedule, orders, index lists, noise, diffusion steps, packing.

Needs NumPy only. Shapes and symbols are those of the model's description: B, R, S, N, L, K, C.
"""

from .cuda_launch import Launch
from .cuda_state import STEP_STATE, chain_table, describe_fault, step_state
from .diffusion import BASE_STEPS, Chain, dit_reverse_step, guided, mlp_reverse_step, renoise_known
from .draws import Draws, PhiloxDraws
from .errors import (
    BuildError,
    BundleError,
    CheckpointError,
    ConfigError,
    EngineError,
    HimarError,
    InputError,
    VerificationError,
)
from .labels import check_labels, label_numbers, parse_labels
from .masks import IndexLists, index_lists, known_positions, revealed_positions
from .packing import to_sheet, to_uint8
from .philox import philox4x32
from .recording import RecordedDraws, RecordedRequest, load_recording, recorded_cases, recorded_request
from .sampling import GuidanceSchedule, SamplingConfig, Solver
from .schedule import Phase, Step, guidance_at, masked_counts, plan, plan_phase
from .sites import Sites
from .solvers import AnyChain, SolverChain, build_chain, dit_head_step, mlp_head_step, phase_chains, solver_step

__all__ = [
    "BASE_STEPS",
    "STEP_STATE",
    "AnyChain",
    "BuildError",
    "BundleError",
    "Chain",
    "CheckpointError",
    "ConfigError",
    "Draws",
    "EngineError",
    "GuidanceSchedule",
    "HimarError",
    "IndexLists",
    "InputError",
    "Launch",
    "Phase",
    "PhiloxDraws",
    "RecordedDraws",
    "RecordedRequest",
    "SamplingConfig",
    "Sites",
    "Solver",
    "SolverChain",
    "Step",
    "VerificationError",
    "build_chain",
    "chain_table",
    "check_labels",
    "describe_fault",
    "dit_head_step",
    "dit_reverse_step",
    "guidance_at",
    "guided",
    "index_lists",
    "known_positions",
    "label_numbers",
    "load_recording",
    "masked_counts",
    "mlp_head_step",
    "mlp_reverse_step",
    "parse_labels",
    "phase_chains",
    "philox4x32",
    "plan",
    "plan_phase",
    "recorded_cases",
    "recorded_request",
    "renoise_known",
    "revealed_positions",
    "solver_step",
    "step_state",
    "to_sheet",
    "to_uint8",
]
