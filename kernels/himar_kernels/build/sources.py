"""Finds the kernels' sources, how they are compiled, and how a compiled file is named after both.

A compiled file carries the hash of the sources and options in its name, so that one of other sources is never run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

# Entries of kernels.cu; the families' launches name them.
KERNEL_NAMES = (
    "himar_ranks",
    "himar_index_lists",
    "himar_reveal_low",
    "himar_start_low",
    "himar_mlp_step",
    "himar_mlp_solve",
    "himar_start_high",
    "himar_dit_step",
    "himar_dit_solve",
    "himar_keep_prediction",
    "himar_forecast",
    "himar_check_finite",
    "himar_latents",
    "himar_pack",
    "himar_draw_codes",
    "himar_mix_codes",
    "himar_least_confident",
    "himar_least_confident_of_each",
    "himar_show_masked",
    "himar_upsample_codes",
    "himar_add_contribution",
    "himar_scale_words",
    "himar_nearest_codes",
    "himar_subtract",
    "himar_join_past",
)

# Of nvcc and NVRTC alike. No fused multiply-add: the kernels round as the NumPy definitions do.
COMPILE_OPTIONS = ("-std=c++17", "--fmad=false")

# GPU architectures compiled ahead: 90a is Hopper with its own instructions.
ARCHITECTURES = ("80", "89", "90a", "100", "120")

_HASH_LENGTH = 16


def source_directory() -> Path:
    """Return the folder of the sources: the include path to compile them with."""
    return Path(__file__).parents[1] / "cuda"


def compiled_directory() -> Path:
    """Return the folder in the package where kernels compiled ahead of time lie; it need not exist."""
    return source_directory() / "compiled"


def main_source() -> Path:
    """Return kernels.cu, which includes every other source."""
    return source_directory() / "kernels.cu"


def source_hash() -> str:
    """Return 16 hexadecimal digits that change with any device source and with the options."""
    return hash_of([*source_directory().glob("*.cuh"), main_source()], COMPILE_OPTIONS)


def hash_of(sources: Iterable[Path], options: Iterable[str] = ()) -> str:
    """Return 16 hexadecimal digits that change with the content or name of any source and with any option."""
    digest = hashlib.sha256("\0".join(options).encode())
    for path in sorted(sources):
        content = path.read_bytes()
        digest.update(f"\0{path.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:_HASH_LENGTH]


def cubin_name(architecture: str) -> str:
    """Return the file name of the kernels compiled from these sources for an architecture such as "90a"."""
    return f"himar-kernels-{source_hash()}-sm_{architecture}.cubin"


def is_cubin(content: bytes | bytearray) -> bool:
    """Return whether a compiler's output is a compiled file (ELF), not nothing or a text."""
    return content[:4] == b"\x7fELF"


def find_cubin(directory: Path, capability: tuple[int, int]) -> Path | None:
    """Return the compiled kernels in `directory` that run on a GPU of this compute capability, the closest first.

    A cubin runs on its own major version from its minor version on; one with the suffix "a" on its own
    capability only. None when there is none of these sources.
    """
    major, minor = capability
    candidates = [f"{major}{minor}a", *(f"{major}{lower}" for lower in range(minor, -1, -1))]
    paths = (directory / cubin_name(architecture) for architecture in candidates)
    return next((path for path in paths if path.is_file()), None)
