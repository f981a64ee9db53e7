"""Defines the options of a Hi-MAR SamplingConfig; guidance of both phases is an option of every family."""

from __future__ import annotations

import functools
from typing import get_args

import click

from himar_kernels.families.sampling_options import FamilyOptions, setting_option
from himar_kernels.shared.options import FamilyOption

from .sampling import SamplingConfig, Solver

sampling_option = setting_option(SamplingConfig())
"""Callback of an option that replaces a value of a SamplingConfig."""


_option = functools.partial(click.option, cls=FamilyOption, family="Hi-MAR")

OPTIONS = FamilyOptions(
    steps=(
        _option("--low-guidance", type=float, callback=sampling_option, help="Scale in phase low only."),
        _option("--high-guidance", type=float, callback=sampling_option, help="Scale in phase high only."),
        _option("--guidance-schedule", type=click.Choice(["linear", "constant"]), help="Over a phase's steps."),
        _option("--low-steps", type=int, callback=sampling_option, help="Autoregressive steps of phase low."),
        _option("--high-steps", type=int, callback=sampling_option, help="Autoregressive steps of phase high."),
        _option(
            "--low-diffusion-steps",
            type=int,
            callback=sampling_option,
            help="Diffusion steps of phase low's head.",
        ),
        _option(
            "--high-diffusion-steps",
            type=int,
            callback=sampling_option,
            help="Diffusion steps of phase high's head.",
        ),
    ),
    # What changes nothing of the networks' work.
    others=(
        _option(
            "--temperature",
            type=float,
            callback=sampling_option,
            help="Factor on the noise of every reverse step.",
        ),
        _option("--low-solver", type=click.Choice(get_args(Solver)), help="Solver of phase low's diffusion chain."),
        _option("--high-solver", type=click.Choice(get_args(Solver)), help="Solver of phase high's diffusion chain."),
    ),
)
