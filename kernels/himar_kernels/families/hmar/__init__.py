"""What lies between HMAR's networks: scales, pyramid of codes, filters and draws, masks (docs/hmar-model.md §3, §5).

Needs NumPy only. Shapes and symbols are those of docs/hmar-model.md §1: B, R, S, T, L, V, Cv, H.
"""

from .code_draws import draw_codes, guided, smooth_weights, surviving
from .draws import Draws, ImageDraws, PhiloxDraws
from .editing import Kept, edit_cells, edit_sampling, edited_share
from .pyramid import (
    Codebook,
    contribution,
    decode_codes,
    encode_latent,
    masked_words,
    nearest_codes,
    scale_input,
    spread,
)
from .recording import (
    RecordedDraws,
    RecordedForward,
    RecordedRequest,
    load_recording,
    recorded_cases,
    recorded_masks,
    recorded_request,
    recorded_samples,
)
from .remask import least_confident
from .sampling import RELEASED_SCHEDULE, SamplingConfig, Schedule, recorded_settings
from .scales import Scales, area_map, bicubic_map
from .schedule import Forward, plan

__all__ = [
    "RELEASED_SCHEDULE",
    "Codebook",
    "Draws",
    "Forward",
    "ImageDraws",
    "Kept",
    "PhiloxDraws",
    "RecordedDraws",
    "RecordedForward",
    "RecordedRequest",
    "SamplingConfig",
    "Scales",
    "Schedule",
    "area_map",
    "bicubic_map",
    "contribution",
    "decode_codes",
    "draw_codes",
    "edit_cells",
    "edit_sampling",
    "edited_share",
    "encode_latent",
    "guided",
    "least_confident",
    "load_recording",
    "masked_words",
    "nearest_codes",
    "plan",
    "recorded_cases",
    "recorded_masks",
    "recorded_request",
    "recorded_samples",
    "recorded_settings",
    "scale_input",
    "smooth_weights",
    "spread",
    "surviving",
]
