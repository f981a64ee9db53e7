"""Defines `himar strip`: writes only a checkpoint's weights, as safetensors."""

from __future__ import annotations

from pathlib import Path

import click

from himar_kernels.shared.console import require_extra
from himar_kernels.shared.options import NamedPath

from .options import weights_option


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
    from himar_kernels import CheckpointError
    from himar_kernels.shared.files import require_writable_file

    from ..loading.strip import strip

    require_writable_file(out, CheckpointError)
    if allow_code:
        click.echo(f"running what {checkpoint} holds, in another process: it has your rights.", err=True)
    done = strip(checkpoint, out, weights, allow_code=allow_code, python=python)
    entry = f" from the entry {done.entry}" if done.entry else ""
    click.echo(f"wrote {out}: {done.tensors} tensors, {done.values / 1e6:.1f} M values{entry}")
