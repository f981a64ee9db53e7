"""Compile the kernels ahead of time with nvcc, one file per GPU architecture.

    python -m himar_kernels.build.cuda [--out DIR] [--arch 80,89,90a,100,120]

Without this, the runtime compiles them with NVRTC when it first meets a GPU; ahead of time saves those seconds and
needs no NVRTC where images are made. The default folder is the one in the package where the runtime looks.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click

from ..shared.console import run_cli
from ..shared.cpu_threads import default_threads
from ..shared.errors import BuildError
from .nvcc import architectures_option, find_nvcc, first_line, move_into, usable_architectures
from .sources import ARCHITECTURES, COMPILE_OPTIONS, compiled_directory, cubin_name, is_cubin, main_source

# Warnings, also of registers that spill to memory, end the build.
_NVCC_OPTIONS = (*COMPILE_OPTIONS, "-O3", "-Werror", "all-warnings", "-Xptxas", "-warn-spills,-Werror", "-cubin")


@dataclass(frozen=True)
class Compiled:
    """What `compile_ahead` did: the files it wrote, and the architectures that this nvcc does not know."""

    files: tuple[Path, ...]
    skipped: tuple[str, ...]


def compile_ahead(out: Path, architectures: Sequence[str] = ARCHITECTURES) -> Compiled:
    """Compile kernels.cu to one cubin per architecture and put them into the folder `out`.

    Files of the same sources are replaced; the others stay. Nothing is written to `out` before all of them compile.
    Raises BuildError: no nvcc, no architecture that it knows, or an error of the compiler.
    """
    nvcc = find_nvcc()
    wanted = usable_architectures(nvcc, architectures)
    with tempfile.TemporaryDirectory(prefix="himar-kernels-") as folder:
        with ThreadPoolExecutor(default_threads()) as pool:
            made = list(pool.map(lambda architecture: _compile(nvcc, architecture, Path(folder)), wanted))
        try:
            out.mkdir(parents=True, exist_ok=True)
            files = tuple(move_into(out, path) for path in made)
        except OSError as error:
            raise BuildError(f"the compiled kernels cannot be written to {out}: {error}.") from error
    return Compiled(files, tuple(architecture for architecture in architectures if architecture not in wanted))


def _compile(nvcc: Path, architecture: str, folder: Path) -> Path:
    path = folder / cubin_name(architecture)
    command = [str(nvcc), *_NVCC_OPTIONS, f"-arch=sm_{architecture}", str(main_source()), "-o", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise BuildError(f"nvcc does not compile the kernels for sm_{architecture}: {first_line(done)}")
    made = path.read_bytes() if path.is_file() else b""
    if not is_cubin(made):
        raise BuildError(f"nvcc compiled the kernels for sm_{architecture} to {len(made)} bytes that hold no kernels.")
    return path


@click.command(epilog="Example: python -m himar_kernels.build.cuda --arch 90a")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for the compiled kernels; the package's own if not given."
)
@architectures_option
def command(out: Path | None, arch: list[str]) -> None:
    """Compile himar's CUDA kernels ahead of time, one file per GPU architecture."""
    compiled = compile_ahead(out or compiled_directory(), arch)
    for path in compiled.files:
        click.echo(f"{path}  {path.stat().st_size / 1024:.0f} KB")
    for architecture in compiled.skipped:
        click.echo(f"sm_{architecture} skipped: this nvcc does not know it; install a newer CUDA toolkit.", err=True)


if __name__ == "__main__":
    sys.exit(run_cli(command))
