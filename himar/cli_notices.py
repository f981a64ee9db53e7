"""What commands say of their images before the long work: on stderr, a line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from .image_folder import ImageList


def show_notice(text: str) -> None:
    """Print a sentence on stderr."""
    click.echo(f"note: {text}", err=True)


def show_images(images: ImageList) -> None:
    """Print which class has which number, what was left out, and class names that are easily mistaken."""
    from .image_folder import alike_classes, describe_classes
    from .image_tree import left_out_sentences

    click.echo(describe_classes(images.class_names), err=True)
    for sentence in left_out_sentences(images.skipped):
        show_notice(sentence)
    alike = alike_classes(images.class_names)
    if alike:
        show_notice(alike)
