"""Defines options of a model and of its training, as commands read them. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from himar_kernels.families.registry import FAMILIES, family_presets
from himar_kernels.shared.options import wrong_usage

from ..families.configuration import require_known

TRAINING_SEED = click.IntRange(0, 2**63 - 1)
"""PyTorch's generators take 64 bits; a training's epochs count up from its seed."""


def config_option(context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """Callback of --config: a name that is neither a preset of any family nor a file is wrong usage."""
    if text is not None:
        with wrong_usage():
            require_known(text, [preset for family in FAMILIES for preset in family_presets(family)])
    return text


def weights_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --weights, the set of weights of a checkpoint to use."""
    return click.option(
        "--weights",
        metavar="NAME",
        callback=_entry_name,
        help="Which weights of the checkpoint to use, for example model or ema.shadow; model_ema or another average if "
        "not given.",
    )(command)


def _entry_name(context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    if text is not None and not text.strip(". "):
        raise click.BadParameter(f"{text!r} names no entry; give one such as model_ema.")
    return text
