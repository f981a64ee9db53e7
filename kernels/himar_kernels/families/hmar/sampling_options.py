"""Defines the options of an HMAR SamplingConfig; guidance is an option of every family."""

from __future__ import annotations

import functools
import json
from typing import Any

import click

from himar_kernels.families.sampling_options import FamilyOptions, setting_option
from himar_kernels.shared.options import FamilyOption

from .sampling import SamplingConfig

sampling_option = setting_option(SamplingConfig())
"""Callback of an option that replaces a value of a SamplingConfig."""


def schedule_option(context: click.Context, parameter: click.Parameter, text: str | None) -> Any:
    """Callback of --schedule: JSON lists of counts, as recipes and `inspect` show them."""
    if text is None:
        return None
    try:
        counts = json.loads(text)
    except (ValueError, RecursionError):
        raise click.BadParameter(f"{text!r:.80} is not JSON; write lists of counts, as '[[1], [1, 3]]'.") from None
    return sampling_option(context, parameter, counts)


_option = functools.partial(click.option, cls=FamilyOption, family="HMAR")

OPTIONS = FamilyOptions(
    steps=(
        _option(
            "--schedule",
            callback=schedule_option,
            metavar="JSON",
            help="Cells that each forward of a scale fixes, as '[[1], [1, 3]]'; '[]' is no masked steps.",
        ),
        _option(
            "--mask-guidance",
            type=float,
            callback=sampling_option,
            help="Factor on the guidance in masked steps; 0 leaves out half of their rows.",
        ),
        _option("--all-scales", is_flag=True, default=None, help="Cells attend to all coarser scales too, as VAR's."),
    ),
    others=(
        _option("--top-k", type=int, callback=sampling_option, help="Codes that are kept; 0 keeps all."),
        _option("--top-p", type=float, callback=sampling_option, help="Probability that is kept; 1 keeps all."),
        _option("--smooth", is_flag=True, default=None, help="Mix codes' vectors in place of drawing codes."),
    ),
)
