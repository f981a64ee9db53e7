"""Finds nvcc, for everything of ours that it compiles: where it is, what it knows, and what it says when it fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import click

from ..shared.errors import BuildError
from ..shared.files import new_file
from .sources import ARCHITECTURES


def find_nvcc() -> Path:
    """Return nvcc from $CUDA_HOME, the PATH or /usr/local/cuda, in this order; BuildError when there is none."""
    home = os.environ.get("CUDA_HOME")
    places = [Path(home) / "bin"] if home else []
    path = next((found for place in places if (found := shutil.which("nvcc", path=place))), None)
    path = path or shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if path is None:
        raise BuildError(
            "nvcc was not found in $CUDA_HOME, on the PATH or in /usr/local/cuda; install the CUDA toolkit, or let the "
            "runtime compile the kernels with NVRTC (pip install 'himar[kernels]')."
        )
    return Path(path)


def usable_architectures(nvcc: Path, architectures: Sequence[str]) -> list[str]:
    """Return those of the architectures that this nvcc knows; BuildError, naming what it knows, for none."""
    known = _known_architectures(nvcc)
    wanted = [architecture for architecture in architectures if architecture.rstrip("af") in known]
    if not wanted:
        raise BuildError(
            f"{nvcc} knows none of the architectures {', '.join(architectures)}; "
            f"it knows {', '.join(sorted(known, key=int))}."
        )
    return wanted


def _known_architectures(nvcc: Path) -> set[str]:
    """Return the architectures' numbers without suffixes: {"80", "90", …}."""
    done = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True)
    if done.returncode != 0:
        raise BuildError(f"{nvcc} --list-gpu-code failed: {first_line(done)}")
    return {line.removeprefix("sm_") for line in done.stdout.split() if line.startswith("sm_")}


def first_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the first error that a compiler reported."""
    lines = (done.stderr + done.stdout).strip().splitlines()
    errors = [line for line in lines if "error" in line or "fatal" in line]
    return (errors or lines or [f"exit code {done.returncode}"])[0]


def move_into(out: Path, path: Path) -> Path:
    """Put a file into the folder `out` whole or not at all, also from another disk."""
    target = out / path.name
    with new_file(target, BuildError) as unfinished:
        shutil.copyfile(path, unfinished)
    return target


def _architectures(context: click.Context, parameter: click.Parameter, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if not name.rstrip("af").isdecimal() or len(name) - len(name.rstrip("af")) > 1:
            raise click.BadParameter(f"{name!r} is not an architecture; write for example 80,90a.")
    return names


architectures_option = click.option(
    "--arch", default=",".join(ARCHITECTURES), show_default=True, callback=_architectures, help="GPU architectures."
)
