"""Does everything between the networks: draws, schedules, index lists, diffusion steps, packing.

Needs NumPy only. What belongs to one model family is in `families`.
"""

from .arithmetic.draws import Draws, ImageDraws, PhiloxDraws
from .arithmetic.packing import to_sheet, to_uint8, to_values
from .arithmetic.philox import philox4x32
from .labels import check_labels, label_numbers, named_class, parse_labels
from .launch import Launch
from .shared.errors import (
    BuildError,
    BundleError,
    CheckpointError,
    ConfigError,
    EngineError,
    HimarError,
    InputError,
    VerificationError,
)

__all__ = [
    "BuildError",
    "BundleError",
    "CheckpointError",
    "ConfigError",
    "Draws",
    "EngineError",
    "HimarError",
    "ImageDraws",
    "InputError",
    "Launch",
    "PhiloxDraws",
    "VerificationError",
    "check_labels",
    "label_numbers",
    "named_class",
    "parse_labels",
    "philox4x32",
    "to_sheet",
    "to_uint8",
    "to_values",
]
