"""Rewrites a checkpoint's weights as safetensors, without running its code or, where asked, in another process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from himar_kernels import CheckpointError

from .checkpoint_files import parts_of, read_weights, weights_file
from .files import write_safetensors

_CHILD = Path(__file__).with_name("strip_child.py")
_KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "SYSTEMROOT", "TMPDIR")
"""What the other process gets of the environment: no tokens, no home."""


@dataclass(frozen=True)
class Stripped:
    """What was written: the entry that it came from, "" where there was one set; tensors; numbers in all of them."""

    entry: str
    tensors: int
    values: int


def strip(
    checkpoint: Path, out: Path, weights: str | None = None, *, allow_code: bool = False, python: Path | None = None
) -> Stripped:
    """Write one set of weights to `out`, types as they are, wrappers' parts taken off the names, in one move.

    weights: as for `himar.load_checkpoint`; allow_code: unpickle the file with all that it names, in a process of
    `python` (None: this one's program) that gets a bare environment and an empty folder of its own, and that hands
    back tensors only. It is not a sandbox: code runs with the user's rights.
    Raises CheckpointError when the file cannot be read so, or `out` would overwrite it.
    """
    if any(part.exists() and out.exists() and part.samefile(out) for part in parts_of(checkpoint)):
        raise CheckpointError(f"{out} is the checkpoint itself; choose another name.")
    with _source(checkpoint, allow_code, python) as source:
        try:
            read = read_weights(source, weights, inert=True)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(source), str(checkpoint))) from error
        odd = next((name for name, tensor in read.state.items() if tensor.is_meta or tensor.is_sparse), None)
        if odd is not None:
            raise CheckpointError(f"{checkpoint}: {odd} is not a plain tensor with values; save the weights as such.")
        write_safetensors(out, read.state, {"format": "pt"})
    return Stripped(read.entry, len(read.state), sum(tensor.numel() for tensor in read.state.values()))


@contextmanager
def _source(checkpoint: Path, allow_code: bool, python: Path | None) -> Iterator[Path]:
    """Yield a file that is read without code: the checkpoint itself, or what another process made of it."""
    if not allow_code:
        yield checkpoint
        return
    with tempfile.TemporaryDirectory(prefix="himar-strip-") as folder:
        plain = Path(folder) / f"{checkpoint.stem}.pth"
        program = str(python or sys.executable)
        # -I: neither the folder here nor PYTHONPATH gives it modules.
        command = [program, "-I", str(_CHILD), str(weights_file(checkpoint).absolute()), str(plain)]
        environment = {name: value for name, value in os.environ.items() if name in _KEPT}
        try:
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        except OSError as error:
            raise CheckpointError(f"{program} cannot be run: {error.strerror}; give a Python with --python.") from error
        if done.returncode or not plain.is_file():
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise CheckpointError(
                f"{checkpoint} could not be unpickled by {program}: {lines[-1][:300]}; --python takes one that has the "
                f"code of its classes."
            )
        yield plain
