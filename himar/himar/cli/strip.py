"""Defines `himar strip`: writes only a checkpoint's weights, as safetensors.

They are read without running the file's code or, where that is asked for, by another process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from himar_kernels import CheckpointError
from himar_kernels.shared.console import require_extra
from himar_kernels.shared.files import require_writable_file
from himar_kernels.shared.options import NamedPath

from .options import weights_option

_CHILD = Path(__file__).with_name("strip_child.py")
_KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "SYSTEMROOT", "TMPDIR")
"""What the other process gets of the environment: no tokens, no home."""


@click.command("strip", epilog="Example: himar strip checkpoint-last.pth model.safetensors --weights model_ema")
@click.argument("checkpoint", type=NamedPath())
@click.argument("out", type=NamedPath())
@weights_option
@click.option(
    "--allow-code",
    is_flag=True,
    help="Unpickle CHECKPOINT with all that it names, in a process of its own. This RUNS whatever code the file holds: "
    "it can read, change and send your files. Only for files from people whom you trust.",
)
@click.option(
    "--python",
    type=NamedPath(),
    help="With --allow-code: the Python to run it in, for example a container's or that of an environment which has "
    "the code of the classes; it needs PyTorch only. This Python if not given.",
)
def strip_command(checkpoint: Path, out: Path, weights: str | None, allow_code: bool, python: Path | None) -> None:
    """Write the weights of CHECKPOINT to OUT, a .safetensors file that holds tensors and nothing else.

    Runs no code of the file: objects of classes that himar does not know are read as plain records, and what they
    hold is searched for weights, also inside a whole pickled network. If that is not enough, see --allow-code.
    """
    require_extra("model", "torch", "safetensors")
    if out.suffix != ".safetensors":
        raise click.BadParameter(f"{out} does not end in .safetensors.", param_hint="OUT")
    if python is not None and not allow_code:
        raise click.UsageError("--python needs --allow-code.")
    require_writable_file(out, CheckpointError)
    if allow_code:
        click.echo(f"running what {checkpoint} holds, in another process: it has your rights.", err=True)
    done = strip(checkpoint, out, weights, allow_code=allow_code, python=python)
    entry = f" from the entry {done.entry}" if done.entry else ""
    click.echo(f"wrote {out}: {done.tensors} tensors, {done.values / 1e6:.1f} M values{entry}")


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
    from ..loading.checkpoint_files import parts_of, read_weights
    from ..loading.files import write_safetensors

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
    from ..loading.checkpoint_files import weights_file

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
