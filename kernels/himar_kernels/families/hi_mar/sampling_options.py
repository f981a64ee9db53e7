"""Defines the options of a Hi-MAR SamplingConfig; guidance of both phases is an option of every family."""

from __future__ import annotations

from typing import Any, get_args

import click

from himar_kernels.families.sampling_options import FamilyOptions
from himar_kernels.shared.errors import InputError

from .sampling import SamplingConfig, Solver


def sampling_option(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Callback of an option that replaces a value of a SamplingConfig."""
    try:
        SamplingConfig().with_changes(**{str(parameter.name): value})
    except InputError as error:
        raise click.BadParameter(str(error)) from None
    return value


OPTIONS = FamilyOptions(
    steps=(
        click.option("--low-guidance", type=float, callback=sampling_option, help="Hi-MAR: scale in phase low only."),
        click.option("--high-guidance", type=float, callback=sampling_option, help="Hi-MAR: scale in phase high only."),
        click.option(
            "--guidance-schedule", type=click.Choice(["linear", "constant"]), help="Hi-MAR: over a phase's steps."
        ),
        click.option(
            "--low-steps", type=int, callback=sampling_option, help="Hi-MAR: autoregressive steps of phase low."
        ),
        click.option(
            "--high-steps", type=int, callback=sampling_option, help="Hi-MAR: autoregressive steps of phase high."
        ),
        click.option(
            "--low-diffusion-steps",
            type=int,
            callback=sampling_option,
            help="Hi-MAR: diffusion steps of phase low's head.",
        ),
        click.option(
            "--high-diffusion-steps",
            type=int,
            callback=sampling_option,
            help="Hi-MAR: diffusion steps of phase high's head.",
        ),
    ),
    # What changes nothing of the networks' work.
    others=(
        click.option(
            "--temperature",
            type=float,
            callback=sampling_option,
            help="Hi-MAR: factor on the noise of every reverse step.",
        ),
        click.option(
            "--low-solver", type=click.Choice(get_args(Solver)), help="Hi-MAR: solver of phase low's diffusion chain."
        ),
        click.option(
            "--high-solver", type=click.Choice(get_args(Solver)), help="Hi-MAR: solver of phase high's diffusion chain."
        ),
    ),
)
