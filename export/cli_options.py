"""Options that several verbs share, and how their values are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

_SAMPLING = (
    click.option("--sampling", "sampling_name", help="One of the named settings of the model; the first if not given."),
    click.option("--guidance", type=float, help="Scale of classifier-free guidance in both phases."),
    click.option("--low-guidance", type=float, help="Scale in phase low alone."),
    click.option("--high-guidance", type=float, help="Scale in phase high alone."),
    click.option("--guidance-schedule", type=click.Choice(["linear", "constant"])),
    click.option("--low-steps", type=int, help="Autoregressive steps of phase low."),
    click.option("--high-steps", type=int, help="Autoregressive steps of phase high."),
    click.option("--low-diffusion-steps", type=int, help="Diffusion steps of the MLP head."),
    click.option("--high-diffusion-steps", type=int, help="Diffusion steps of the DiT head."),
    click.option("--temperature", type=float, help="Factor on the noise of every reverse step."),
)

SAMPLING_FIELDS = (
    "guidance", "low_guidance", "high_guidance", "guidance_schedule", "low_steps", "high_steps",
    "low_diffusion_steps", "high_diffusion_steps", "temperature",
)  # fmt: skip


def weights_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --weights, the entry of a .pth checkpoint to use."""
    return click.option(
        "--weights",
        type=click.Choice(["model_ema", "model"]),
        help="Which weights of a .pth checkpoint to use; model_ema if not given.",
    )(command)


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a SamplingConfig to a command."""
    for option in reversed(_SAMPLING):
        command = option(command)
    return command


def precision_pairs(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    """Read NAME=PRECISION pairs."""
    pairs = {}
    for text in value:
        name, equals, precision = text.partition("=")
        if not equals or not name or not precision:
            raise click.BadParameter(f"{text!r} is not NAME=PRECISION, for example vae_decoder=fp32.")
        pairs[name] = precision
    return pairs
