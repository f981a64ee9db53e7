"""Compile our operators for ONNX Runtime (kernels/himar_kernels/fused) with nvcc.

    python -m himar_kernels.build.fused --onnxruntime INCLUDE [--arch 80,89,90a,100,120]

INCLUDE is the folder of ONNX Runtime's C++ headers, `include/` of its releases; its minor version must not be above
that of the installed onnxruntime-gpu. `make cuda` runs this with Debian's headers, or with ONNXRUNTIME_INCLUDE=DIR.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from ..shared.console import run_cli
from ..shared.errors import BuildError
from .fused_library import library_path, source_directory
from .nvcc import architectures_option, find_nvcc, first_line, move_into, usable_architectures
from .sources import ARCHITECTURES

HEADER = "onnxruntime_cxx_api.h"
_OPTIONS = ("-std=c++17", "-O3", "-shared")
_HOST_OPTIONS = ("-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")


def source() -> Path:
    """Return operators.cpp."""
    return source_directory() / "operators.cpp"


def compile_for_cuda(include: Path, out: Path, architectures: Sequence[str] = ARCHITECTURES) -> tuple[str, ...]:
    """Compile the library with nvcc for several GPU architectures; return those that this nvcc does not know.

    include: folder of ONNX Runtime's C++ headers. Raises BuildError: no headers, no nvcc, or an error of the compiler;
    nothing is written then.
    """
    _require_headers(include)
    nvcc = find_nvcc()
    wanted = usable_architectures(nvcc, architectures)
    lowest = min((each.rstrip("af") for each in wanted), key=int)  # as PTX too, for newer ones than this nvcc's
    targets = [f"-gencode=arch=compute_{each},code=sm_{each}" for each in wanted]
    targets.append(f"-gencode=arch=compute_{lowest},code=compute_{lowest}")
    options = [*_OPTIONS, f"-Xcompiler={','.join(_HOST_OPTIONS)}", "--threads=0", *targets]
    _compile([str(nvcc), *options, "-isystem", str(include), "-x", "cu", str(source())], out)
    return tuple(each for each in architectures if each not in wanted)


def compile_for_cpu(compiler: str, include: Path, out: Path) -> None:
    """Compile the same operators for ONNX Runtime's CPU provider, for comparing them with their functions."""
    _require_headers(include)
    options = [*_OPTIONS, *_HOST_OPTIONS, "-Werror", "-ffp-contract=off"]
    _compile([compiler, *options, "-isystem", str(include), "-x", "c++", str(source())], out)


def _require_headers(include: Path) -> None:
    if not (include / HEADER).is_file():
        raise BuildError(
            f"{include} holds no {HEADER}; give the folder of ONNX Runtime's C++ headers, include/ of its releases."
        )


def _compile(command: list[str], out: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="himar-fused-") as folder:
        made = Path(folder) / out.name
        try:
            done = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True)
        except OSError as error:
            raise BuildError(f"the compiler {command[0]} cannot be run ({error.strerror}); install it.") from error
        if done.returncode != 0:
            raise BuildError(f"{Path(command[0]).name} does not compile {source().name}: {first_line(done)}")
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BuildError(f"{out.parent} cannot be made ({error.strerror}); choose another --out.") from error
        move_into(out.parent, made)


@click.command()
@click.option("--onnxruntime", "include", required=True, type=click.Path(path_type=Path),
              help="Folder of ONNX Runtime's C++ headers.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="The library; the package's own if not given.")
@architectures_option
def command(include: Path, out: Path | None, arch: list[str]) -> None:
    """Compile himar's operators for ONNX Runtime on CUDA."""
    path = out or library_path()
    skipped = compile_for_cuda(include, path, arch)
    for other in path.parent.glob("libhimar_fused-*.so"):  # of other sources, which nothing would load
        if out is None and other != path:
            other.unlink()
    click.echo(f"{path}  {path.stat().st_size / 1024:.0f} KB")
    for architecture in skipped:
        click.echo(f"sm_{architecture} skipped: this nvcc does not know it; install a newer CUDA toolkit.", err=True)


if __name__ == "__main__":
    sys.exit(run_cli(command))
