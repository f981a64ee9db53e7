"""Prints the live lines of long commands, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from himar_kernels.shared.interruptions import check_interruption
from himar_kernels.shared.live_line import live_line

if TYPE_CHECKING:
    from ..training.optimise import OnStep


@contextmanager
def image_progress(what: str, unit: str = "img") -> Iterator[Any]:
    """Yield a callback of (done, total): one live line on stderr with images (or other units) per second, time left."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty())
    with live_line(progress):
        task = progress.add_task(what, total=None, rate="")

        def on_images(done: int, total: int) -> None:
            check_interruption()
            if progress.tasks[0].total is None:
                progress.reset(task, total=total, completed=done)  # the rate counts from here: a resumed run began late
                return
            speed = progress.tasks[0].speed
            progress.update(task, completed=done, rate=f"{speed:.1f} {unit}/s" if speed else "")

        yield on_images


@contextmanager
def training_progress(shown: bool) -> Iterator[Callable[[str], OnStep | None]]:
    """Yield the `on_stage` of a training: one live line per stage, with its figures, images/s and time left."""
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    if not shown:
        yield lambda stage: None
        return
    progress = Progress(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty())
    with live_line(progress):

        def on_stage(stage: str) -> OnStep:
            task = progress.add_task(stage, total=None, figures="")
            begun = False

            def on_step(state: Any) -> None:
                nonlocal begun
                check_interruption()
                if not begun:
                    # A resumed run begins late: its speed counts from here.
                    progress.reset(task, total=state.steps, completed=state.step - 1)
                    begun = True
                figures = "  ".join(f"{name} {value:.3g}" for name, value in state.figures.items())
                speed = progress.tasks[task].speed
                if speed:
                    figures += f"  {speed * state.images:.0f} img/s"
                progress.update(task, completed=state.step, figures=figures)

            return on_step

        yield on_stage
