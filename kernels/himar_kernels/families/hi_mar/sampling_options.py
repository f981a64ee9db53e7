"""Defines the options of a Hi-MAR SamplingConfig; guidance of both phases is an option of every family."""

from __future__ import annotations

import functools
from typing import Any, get_args

import click

from himar_kernels.families.sampling_options import FamilyOptions, setting_option
from himar_kernels.shared.options import FamilyOption

from .sampling import SamplingConfig, Solver

sampling_option = setting_option(SamplingConfig())
"""Callback of an option that replaces a value of a SamplingConfig."""

forecast_option = setting_option(SamplingConfig(low_forecast=2, high_forecast=2))
"""The same of a value that says nothing where no phase is forecast."""


def numbers_option(context: click.Context, parameter: click.Parameter, text: str | None) -> Any:
    """Callback of a list with a number for each autoregressive step of a phase, as "250,183,116,50"."""
    if text is None:
        return None
    name = str(parameter.name)
    kind = int if name.endswith("_counts") else float
    try:
        values = [kind(each) for each in text.split(",")]
    except ValueError:
        numbers, example = ("whole numbers", "250,50") if kind is int else ("numbers", "1,2.5")
        raise click.BadParameter(
            f"{text!r:.80} is no list of {numbers}; write one for each step, as {example!r}."
        ) from None
    settings = SamplingConfig().with_changes(**{f"{name.split('_')[0]}_steps": len(values)})
    return setting_option(settings)(context, parameter, values)


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
        *(
            _option(
                f"--{phase}-diffusion-counts",
                callback=numbers_option,
                metavar="N,N,…",
                help=f"Diffusion steps of each of phase {phase}'s autoregressive steps.",
            )
            for phase in ("low", "high")
        ),
        *(
            _option(
                f"--{phase}-guidances",
                callback=numbers_option,
                metavar="G,G,…",
                help=f"Scale of each of phase {phase}'s autoregressive steps.",
            )
            for phase in ("low", "high")
        ),
        _option(
            "--least-guidance",
            type=float,
            callback=sampling_option,
            help="Steps with a smaller scale run without guidance.",
        ),
        *(
            _option(
                f"--{phase}-forecast",
                type=int,
                callback=sampling_option,
                help=f"Evaluate phase {phase}'s head at every so many-th index, forecast it between; 1 forecasts none.",
            )
            for phase in ("low", "high")
        ),
        *(
            _option(
                f"--forecast-{end}",
                type=int,
                callback=forecast_option,
                help=f"Indices that a forecast chain {does} with, all evaluated.",
            )
            for end, does in (("first", "begins"), ("last", "ends"))
        ),
        _option(
            "--guidance-interval",
            type=int,
            callback=sampling_option,
            help="Evaluations of which one runs both halves, the others the conditional one; 1 runs both in all.",
        ),
        _option(
            "--modulation-interval",
            type=int,
            callback=sampling_option,
            help="Evaluations of which one makes a DiT head's modulations, the others hold them; 1 holds none.",
        ),
    ),
    # What changes nothing of the networks' work.
    others=(
        _option(
            "--forecast-order",
            type=int,
            callback=forecast_option,
            help="Of a forecast: 0 repeats the last evaluation, 1 continues the last two, 2 the last three.",
        ),
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
