"""Defines options that both commands share. A value that no model or machine can take is wrong usage, exit code 2."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ..labels import label_numbers, mistakable_number, parse_labels
from .errors import BuildError, ConfigError, InputError

SEED = click.IntRange(0, 2**64 - 1)
THREADS = click.IntRange(1, 1024)
"""A typing error of a few digits must not make a machine start a million threads."""
THREADS_DEFAULT = "by default the CPUs it may use (affinity, OMP_NUM_THREADS, container quota)"
"""In the help of --threads: what `cpu_threads.default_threads` gives."""

_FILE_ENDING = re.compile(
    r"\.(apng|avifs?|bmp|dib|eps|exr|gif|hdr|hei[cf]|icns|ico|j2k|jfif|jp[2efgx]|jpeg|jxl|p[bgnp]m|pdf|png|psd|qoi|svg|tga"
    r"|tiff?|web[mp]|mp4|npy|npz|pth?|safetensors|json|txt|bz2|gz|tar|tgz|xz|zip)",
    re.IGNORECASE,
)
_MOST_GPUS = 4  # digits of a GPU's number


class FiniteRange(click.FloatRange):
    """A number in a range. `click.FloatRange` alone lets "nan" through, and "inf" where the range is open-ended."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See click.ParamType; fails unless the number is finite."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class NamedPath(click.Path):
    """A path. The empty one, which an unset variable of a shell leaves, is refused: it would mean the folder here."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See click.ParamType; fails for an empty path."""
        if not str(value):
            self.fail("the path is empty; write . for this folder.", param, ctx)
        return super().convert(value, param, ctx)


class FamilyOption(click.Option):
    """An option that models of one family alone take. family: its title."""

    def __init__(self, *names: Any, family: str, **options: Any) -> None:
        super().__init__(*names, **options)
        self.family = family


class FamilyCommand(click.Command):
    """A command whose help lists the options of one family by themselves, after those of all."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See click.Command."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for option in self.get_params(ctx):
            title = f"Options of {option.family} alone" if isinstance(option, FamilyOption) else "Options"
            if record := option.get_help_record(ctx):
                sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def label_option(context: click.Context, parameter: click.Parameter, text: str | None) -> list[int | str] | None:
    """Callback of --labels: read "0,3,5-9,cat"; names become numbers when the model is known (`chosen_labels`)."""
    try:
        return None if text is None else parse_labels(text)
    except InputError as error:
        raise click.BadParameter(str(error)) from None


def chosen_labels(
    labels: Sequence[int | str], class_names: Sequence[str] | None, source: str, option: str = "--labels"
) -> list[int]:
    """Return the numbers of --labels, with a warning on stderr where a number may have been meant as a name.

    Arguments are those of `label_numbers`; a name that it refuses is wrong usage of `option`.
    """
    warning = mistakable_number(labels, class_names)
    if warning is not None:
        click.echo(f"warning: {warning}", err=True)
    try:
        return label_numbers(labels, class_names, source)
    except InputError as error:
        raise click.BadParameter(str(error), param_hint=option) from error


def device_option(context: click.Context, parameter: click.Parameter, text: str) -> str:
    """Callback of --device: "cpu", "cuda" or "cuda:N"; whether that GPU exists is found out when it is used."""
    if not re.fullmatch(rf"cpu|cuda(:[0-9]{{1,{_MOST_GPUS}}})?", text):
        raise click.BadParameter(f"{text!r} is not cpu, cuda or cuda:N with a GPU's number.")
    return text


def npz_option(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Callback of an option that names an .npz to write."""
    if path is not None and path.suffix != ".npz":
        raise click.BadParameter(f"{path} does not end in .npz.")
    return path


def png_option(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Callback of an option that names a PNG to write."""
    if path is not None and path.suffix.lower() != ".png":
        raise click.BadParameter(f"{path} does not end in .png, the only image format that is written.")
    return path


def images_option(context: click.Context, parameter: click.Parameter, path: Path) -> Path:
    """Callback of an option that names a .png, an .npz, or a folder: no other file."""
    if path.suffix.lower() not in (".png", ".npz") and _is_named_as_file(path):
        raise click.BadParameter(
            f"{path} ends in {path.suffix}, which cannot be written; give a .png or .npz, or a folder."
        )
    return path


def folder_option(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Callback of an option that names a folder of images to write."""
    if path is not None and _is_named_as_file(path):
        raise click.BadParameter(f"{path} ends in {path.suffix}, like a file; give a folder for the .png files.")
    return path


def _is_named_as_file(path: Path) -> bool:
    """Whether a path that does not exist has the ending of a kind of file; "run-1.5" has none."""
    return bool(_FILE_ENDING.fullmatch(path.suffix)) and not path.is_dir()


@contextmanager
def wrong_usage() -> Iterator[None]:
    """Turn errors about values that came from the command line alone into wrong usage."""
    try:
        yield
    except (BuildError, ConfigError, InputError) as error:
        raise click.UsageError(str(error)) from error
