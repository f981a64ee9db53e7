"""Options of a model and of its training, as commands read them. Needs no PyTorch."""

from __future__ import annotations

import click

from himar_kernels.options import wrong_usage

from .presets import require_known

TRAINING_SEED = click.IntRange(0, 2**63 - 1)
"""PyTorch's generators take 64 bits; a training's epochs count up from its seed."""


def config_option(context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """Callback of --config: a name that is no preset and no file is wrong usage."""
    if text is not None:
        with wrong_usage():
            require_known(text)
    return text
