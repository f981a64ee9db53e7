"""Draws the progress bar of the verbs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from himar_kernels.shared.interruptions import check_interruption
from himar_kernels.shared.live_line import live_line


@contextmanager
def progress_bar(silent: bool) -> Iterator[Callable[[str, float], None]]:
    """Draw a progress bar on stderr, none under --json; yields advance(text, fraction), a step that signals end."""
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(),
        console=Console(stderr=True), disable=silent, transient=True, redirect_stdout=sys.stdout.isatty(),
    )  # fmt: skip
    with live_line(bar):
        task = bar.add_task("starting", total=1.0)

        def advance(text: str, fraction: float) -> None:
            check_interruption()
            bar.update(task, description=text, completed=fraction)

        yield advance
