"""Defines options of how a model samples, as all commands read them: a named set, and single values over it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import click

from himar_kernels.shared.errors import InputError

from .sampling import SamplingConfig, Solver


def sampling_option(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Callback of an option that replaces a value of a SamplingConfig; --guidance stands for both phases'."""
    given = str(parameter.name)
    field = "low_guidance" if given == "guidance" else given
    try:
        SamplingConfig().with_changes(**{field: value})
    except InputError as error:
        raise click.BadParameter(str(error).replace(field, given, 1)) from None
    return value


_STEPS = (
    click.option("--sampling", "sampling_name", help="One of the named settings of the model; the first if not given."),
    click.option(
        "--guidance", type=float, callback=sampling_option, help="Scale of classifier-free guidance in both phases."
    ),
    click.option("--low-guidance", type=float, callback=sampling_option, help="Scale in phase low only."),
    click.option("--high-guidance", type=float, callback=sampling_option, help="Scale in phase high only."),
    click.option("--guidance-schedule", type=click.Choice(["linear", "constant"])),
    click.option("--low-steps", type=int, callback=sampling_option, help="Autoregressive steps of phase low."),
    click.option("--high-steps", type=int, callback=sampling_option, help="Autoregressive steps of phase high."),
    click.option(
        "--low-diffusion-steps", type=int, callback=sampling_option, help="Diffusion steps of phase low's head."
    ),
    click.option(
        "--high-diffusion-steps", type=int, callback=sampling_option, help="Diffusion steps of phase high's head."
    ),
)
# What changes nothing of the networks' work.
_NOISE = (
    click.option(
        "--temperature", type=float, callback=sampling_option, help="Factor on the noise of every reverse step."
    ),
    click.option("--low-solver", type=click.Choice(get_args(Solver)), help="Solver of phase low's diffusion chain."),
    click.option("--high-solver", type=click.Choice(get_args(Solver)), help="Solver of phase high's diffusion chain."),
)


def step_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a SamplingConfig that decide how much the networks have to do."""
    for option in reversed(_STEPS):
        command = option(command)
    return command


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add all options of a SamplingConfig to a command."""
    for option in reversed(_NOISE):
        command = option(command)
    return step_options(command)
