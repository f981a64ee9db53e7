"""`himar init` and `himar strip`: files of weights, from nothing and from other people's checkpoints."""

from __future__ import annotations

from pathlib import Path

import click

from himar_kernels.shared.console import require_extra
from himar_kernels.shared.options import NamedPath

from .options import TRAINING_SEED, config_option, weights_option


@click.command(epilog="Example: himar init --config himar-b --seed 0 --out random-b.safetensors")
@click.option(
    "--config", required=True, callback=config_option, help="Preset (himar-b, himar-l, himar-h, digits) or JSON file."
)
@click.option("--seed", default=0, show_default=True, type=TRAINING_SEED, help="Seed of the weights.")
@click.option("--half", is_flag=True, help="Write float16, half the size.")
@click.option("--out", required=True, type=NamedPath(), help="A .safetensors file.")
def init(config: str, seed: int, half: bool, out: Path) -> None:
    """Write random weights in the released layout, to try an export at real size without a trained model."""
    require_extra("model", "torch", "safetensors")
    import torch

    from ..device import use_threads
    from ..families.hi_mar.checkpoints import save_checkpoint
    from ..families.hi_mar.config import read_config, resolve
    from ..families.hi_mar.model import HiMAR, randomise

    if out.suffix != ".safetensors":
        raise click.BadParameter(f"{out} does not end in .safetensors.", param_hint="--out")
    use_threads()
    model = randomise(HiMAR(resolve(read_config(config), {}, config)), seed)
    save_checkpoint(model, out, torch.float16 if half else torch.float32)
    count = sum(parameter.numel() for parameter in model.parameters())
    click.echo(f"wrote {out}: {count / 1e6:.1f} M parameters")


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
    "the code of the classes; it needs PyTorch only. This one if not given.",
)
def strip_command(checkpoint: Path, out: Path, weights: str | None, allow_code: bool, python: Path | None) -> None:
    """Write the weights of CHECKPOINT to OUT, a .safetensors file that holds tensors and nothing else.

    Runs no code of the file: objects of classes that himar does not know are read as plain records, and what they
    hold is searched for weights, also inside a whole network that was pickled. Where that is not enough, --allow-code
    says so.
    """
    require_extra("model", "torch", "safetensors")
    if out.suffix != ".safetensors":
        raise click.BadParameter(f"{out} does not end in .safetensors.", param_hint="OUT")
    if python is not None and not allow_code:
        raise click.UsageError("--python goes with --allow-code.")
    from himar_kernels import CheckpointError
    from himar_kernels.shared.files import require_writable_file

    from ..loading.strip import strip

    require_writable_file(out, CheckpointError)
    if allow_code:
        click.echo(f"running what {checkpoint} holds, in another process: it has your rights.", err=True)
    done = strip(checkpoint, out, weights, allow_code=allow_code, python=python)
    entry = f" from the entry {done.entry}" if done.entry else ""
    click.echo(f"wrote {out}: {done.tensors} tensors, {done.values / 1e6:.1f} M values{entry}")
