"""Defines options of how a model samples, as all commands read them: a named set, and single values over it.

Guidance is in every family; the others are families' own, in `himar_kernels.families.NAME.sampling_options`. Which
family a model is of is known once it is read, and its family refuses options of another.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from himar_kernels.shared.errors import InputError

from .registry import FAMILIES
from .settings import scale_number

Option = Callable[[Callable[..., Any]], Callable[..., Any]]
Callback = Callable[[click.Context, click.Parameter, Any], Any]


@dataclass(frozen=True)
class FamilyOptions:
    """A family's options. steps: those that decide how much its networks have to do; others: the rest."""

    steps: Sequence[Option]
    others: Sequence[Option]


def guidance_option(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """Callback of --guidance: what a scale may be."""
    try:
        return None if value is None else scale_number(str(parameter.name), value)
    except InputError as error:
        raise click.BadParameter(str(error)) from None


def setting_option(settings: Any) -> Callback:
    """Return a callback of options that are named after fields: wrong usage for a value that `settings` refuse.

    settings: any of the family's, with `with_changes`.
    """

    def checked(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            settings.with_changes(**{str(parameter.name): value})
        except InputError as error:
            raise click.BadParameter(str(error)) from None
        return value

    return checked


_SHARED = (
    click.option("--sampling", "sampling_name", help="One of the named settings of the model; the first if not given."),
    click.option("--guidance", type=float, callback=guidance_option, help="Scale of classifier-free guidance."),
)


def step_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that decide how much the networks have to do."""
    return _with(command, lambda family: family.steps)


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add all options of how a model samples."""
    return _with(command, lambda family: (*family.steps, *family.others))


def _with(command: Callable[..., Any], chosen: Callable[[FamilyOptions], Sequence[Option]]) -> Callable[..., Any]:
    options: list[Option] = list(_SHARED)
    for modules in FAMILIES.values():
        if modules.options:
            options += chosen(importlib.import_module(modules.options).OPTIONS)
    for option in reversed(options):
        command = option(command)
    return command
