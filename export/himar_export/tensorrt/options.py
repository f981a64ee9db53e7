"""Defines what a user may ask of a TensorRT builder, and refuses what a backend cannot do."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

from himar_kernels import BuildError

from ..make.gpu import Gpu

OPTIMIZATION_LEVELS = range(6)
CURRENT = "current"
LEAST_HARDWARE_COMPATIBLE = "8.0"
LEAST_FP8 = "8.9"
"""The least compute capability that multiplies in e4m3: Ada; Hopper and Blackwell do too."""

_SMALLEST_WORKSPACE, _LARGEST_WORKSPACE = 1 << 20, 1 << 50


@dataclass(frozen=True)
class EngineOptions:
    """Options of the builder; the defaults are TensorRT's own.

    Attributes:
        optimization_level: 0 builds fastest, 5 searches longest.
        workspace: most bytes that one layer may use for intermediate results; None leaves it to TensorRT.
        version_compatible: engines that later TensorRT versions and the lean runtime load (full TensorRT).
        hardware_compatible: engines for every GPU from Ampere on, not this machine's alone (full TensorRT).
        refittable: engines whose weights `himar-export refit` can replace.
        gpus: GPU generations to build for, "sm_89", or "current" alone (TensorRT-RTX); none takes its own choice.
    """

    optimization_level: int = 3
    workspace: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    refittable: bool = False
    gpus: tuple[str, ...] = ()

    def changed(self) -> list[str]:
        """Return the options that differ from their defaults, as they are written on the command line."""
        default = EngineOptions()
        names = {"optimization_level": "--opt-level", "gpus": "--gpu"}
        return [
            names.get(name, f"--{name.replace('_', '-')}")
            for name, value in asdict(self).items()
            if value != getattr(default, name)
        ]


def check_suits(options: EngineOptions, backend: str) -> None:
    """Raise BuildError for options that contradict the backend or each other, on whatever machine."""
    changed = options.changed()
    if backend == "onnxruntime" and changed:
        raise BuildError(
            f"{changed[0]} is an option of TensorRT's builders; give --backend tensorrt or tensorrt-rtx with it."
        )
    if options.optimization_level not in OPTIMIZATION_LEVELS:
        raise BuildError(f"the optimization level is {options.optimization_level}; it must be 0 to 5.")
    if options.workspace is not None and not _SMALLEST_WORKSPACE <= options.workspace <= _LARGEST_WORKSPACE:
        raise BuildError(f"the workspace is {options.workspace} bytes; it must be 1MiB to 1024TiB.")
    if backend == "tensorrt" and options.gpus:
        raise BuildError(
            f"--gpu {options.gpus[0]} is an option of tensorrt-rtx: TensorRT builds for the GPU it runs on; build on "
            f"such a machine, or with --hardware-compatible for every GPU from Ampere on."
        )
    if backend == "tensorrt-rtx" and options.version_compatible:
        raise BuildError(
            "--version-compatible is an option of tensorrt: a TensorRT-RTX engine runs on the version that built it; "
            "leave the option out, and build again for a new version."
        )
    if backend == "tensorrt-rtx" and options.hardware_compatible:
        raise BuildError(
            "--hardware-compatible is an option of tensorrt: TensorRT-RTX builds for several GPU generations anyway; "
            "leave the option out, or name them with --gpu."
        )
    if len({_member(name) for name in options.gpus}) < len(options.gpus):
        raise BuildError(f"--gpu names the same GPU twice: {', '.join(options.gpus)}; name each once.")
    if CURRENT in options.gpus and len(options.gpus) > 1:
        raise BuildError(f"--gpu {CURRENT} goes alone, not with {', '.join(set(options.gpus) - {CURRENT})}.")


def check_options(options: EngineOptions, backend: str, library: ModuleType, gpu: Gpu | None) -> None:
    """Raise BuildError for an option that is out of range or that this backend cannot honour here.

    A library that is too old for the exported graphs is refused too.
    """
    if not hasattr(library.LayerType, "ATTENTION_OUTPUT"):
        raise BuildError(
            f"{library.__name__} {library.__version__} has no Attention layer, which the exported graphs use; "
            f"it came with TensorRT 10.14: install that or a later one."
        )
    check_suits(options, backend)
    if backend == "tensorrt":
        _check_full(options, gpu)
    else:
        _check_rtx(options, library, gpu)


def check_fp8(options: EngineOptions, backend: str, gpu: Gpu | None) -> None:
    """Raise BuildError for engines in fp8 on GPUs that have none, and for an option that such engines do not bear.

    gpu: this machine's, for which full TensorRT builds.
    """
    if options.refittable:
        raise BuildError(
            "--refittable is given, but engines in fp8 keep the scales that they were built with, which new weights "
            "may not fit; leave the option out, or build with --fp16."
        )
    if options.hardware_compatible:
        raise BuildError(
            f"--hardware-compatible is for every GPU from Ampere on, and fp8 takes compute capability {LEAST_FP8} or "
            f"later; leave the option out, or build with --fp16."
        )
    named = {f"--gpu {name}": _capability(name) for name in options.gpus if name != CURRENT}
    if gpu is not None and (backend == "tensorrt" or CURRENT in options.gpus):
        named[f"this machine's {gpu.name}"] = gpu.capability
    for which, capability in named.items():
        if _number(capability) < _number(LEAST_FP8):
            raise BuildError(
                f"fp8 takes a GPU of compute capability {LEAST_FP8} or later (Ada, Hopper, Blackwell), and {which} is "
                f"of {capability}; build for another GPU, or with --fp16."
            )


def compute_capabilities(options: EngineOptions, library: ModuleType) -> list[Any]:
    """Return the library's ComputeCapability of every requested GPU generation."""
    return [getattr(library.ComputeCapability, _member(name)) for name in options.gpus]


def target(options: EngineOptions, backend: str, gpu: Gpu | None, fp8: bool = False) -> dict[str, Any]:
    """Return what the engines are for, as the manifest's backend says it (schema: himar_runtime.bundle.manifest).

    compute_capability: the only one supported, or None. compute_capabilities (TensorRT-RTX): those that were asked
    for, None for the library's own choice. least_compute_capability: of hardware-compatible engines, and of those of
    the library's choice with some in fp8.
    """
    if backend == "tensorrt":
        if options.hardware_compatible:
            return {"compute_capability": None, "least_compute_capability": LEAST_HARDWARE_COMPATIBLE}
        return {"compute_capability": gpu.capability if gpu else None}
    if options.gpus == (CURRENT,):
        return {"compute_capability": gpu.capability if gpu else None, "compute_capabilities": None}
    found = {"compute_capability": None, "compute_capabilities": [_capability(name) for name in options.gpus] or None}
    return {**found, "least_compute_capability": LEAST_FP8} if fp8 and not options.gpus else found


def runs_here(options: EngineOptions, gpu: Gpu | None, fp8: bool = False) -> bool:
    """Return whether this machine has a GPU that the engines were built for; fp8: some of them are."""
    if gpu is None or (fp8 and _number(gpu.capability) < _number(LEAST_FP8)):
        return False
    return not options.gpus or options.gpus == (CURRENT,) or gpu.capability in map(_capability, options.gpus)


def unsupported(library: ModuleType, gpu: Gpu | None) -> str | None:
    """Return the sentence that TensorRT-RTX does not support this machine's GPU; None where it does, or without one."""
    if gpu is None or _member(f"sm_{gpu.capability.replace('.', '')}") in library.ComputeCapability.__members__:
        return None
    return (
        f"TensorRT-RTX {library.__version__} does not support this machine's {gpu.name} (compute capability "
        f"{gpu.capability}); for it build with --backend tensorrt, or for onnxruntime."
    )


def parse_size(text: str) -> int:
    """Read a size in bytes such as "8GiB", "512MiB" or "1000000"; ValueError for anything else."""
    found = re.fullmatch(r"(\d+)\s*(?:([KMGT])i?B?|B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise ValueError(f"{text!r} is not a size; write for example 8GiB or 512MiB.")
    return int(found[1]) << (10 * (" KMGT".index(found[2].upper()) if found[2] else 0))


def _check_full(options: EngineOptions, gpu: Gpu | None) -> None:
    if gpu is None:
        raise BuildError(
            "TensorRT builds engines on the GPU that they are for, and none can be used here; build on such a machine "
            "(with `pip install 'himar[kernels]'`), or with --backend tensorrt-rtx, which needs none."
        )
    if options.hardware_compatible and _number(gpu.capability) < _number(LEAST_HARDWARE_COMPATIBLE):
        raise BuildError(
            f"--hardware-compatible needs a GPU from Ampere on (8.0), and {gpu.name} is of {gpu.capability}."
        )


def _check_rtx(options: EngineOptions, library: ModuleType, gpu: Gpu | None) -> None:
    known = [name for name in library.ComputeCapability.__members__ if name.startswith("SM")]
    for name in options.gpus:
        if _member(name) not in (*known, CURRENT.upper()):
            hopper = "; for a Hopper build with --backend tensorrt on it, or for onnxruntime" if "90" in name else ""
            raise BuildError(
                f"--gpu {name!r} is unknown to TensorRT-RTX {library.__version__}; it builds for "
                f"{', '.join(f'sm_{each[2:]}' for each in known)} and {CURRENT}{hopper}."
            )
    if CURRENT in options.gpus and gpu is None:
        raise BuildError(f"--gpu {CURRENT} builds for this machine's GPU, and none can be used here; name one: sm_89.")
    if CURRENT in options.gpus and (lack := unsupported(library, gpu)):
        raise BuildError(f"--gpu {CURRENT}: {lack}")
    if options.refittable and gpu is None:
        raise BuildError(
            "TensorRT-RTX compiles parts of a refittable engine with the GPU's driver, and none can be used here; "
            "build on a machine with a GPU, or without --refittable."
        )


def _member(name: str) -> str:
    return name.upper().replace("_", "")


def _capability(name: str) -> str:
    digits = name.lower().removeprefix("sm").removeprefix("_")
    return f"{digits[:-1]}.{digits[-1]}"


def _number(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))
