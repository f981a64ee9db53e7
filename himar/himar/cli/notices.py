"""Prints what commands say of their images before the long work, on stderr, a line each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..data.folder import ImageList
    from ..data.tree import Skipped


def show_notice(text: str) -> None:
    """Print a sentence on stderr."""
    click.echo(f"note: {text}", err=True)


def show_images(images: ImageList) -> None:
    """Print which class has which number, what was left out, and class names that are easily mistaken."""
    from ..data.folder import alike_classes, describe_classes

    click.echo(describe_classes(images.class_names), err=True)
    show_skipped(images.skipped)
    alike = alike_classes(images.class_names)
    if alike:
        show_notice(alike)


def show_skipped(skipped: Sequence[Skipped]) -> None:
    """Print which files of a folder are left out, a line for each reason."""
    from ..data.tree import left_out_sentences

    for sentence in left_out_sentences(skipped):
        show_notice(sentence)
