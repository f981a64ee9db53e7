"""Reads every file of a list before the long work that needs them, and names those that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from himar_kernels import HimarError, InputError

OnFiles = Callable[[int, int], None]
_NAMED, _ENOUGH, _AT_ONCE = 3, 100, 256
"""Files that the message names, after which a check ends, and that are handed to the readers at once."""


def require_readable(
    paths: Iterable[Path],
    check: Callable[[Path], object],
    advice: str,
    on_files: OnFiles | None = None,
    readers: int | None = None,
) -> None:
    """Call `check` for every file, in `readers` threads; None takes one per core, at most 16.

    Raises InputError with the first files for which it raised a HimarError, whose text is the reason, and `advice` on
    what to do. `on_files` gets (files checked, all files).
    """
    files = list(paths)
    refused: list[str] = []

    def reason(path: Path) -> str | None:
        try:
            check(path)
        except HimarError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(readers or min(16, os.cpu_count() or 1)) as pool:
        left, done = iter(files), 0
        while (part := list(islice(left, _AT_ONCE))) and len(refused) < _ENOUGH:
            for path, text in zip(part, pool.map(reason, part), strict=True):
                if text is not None:
                    refused.append(f"{path} ({text})")
                done += 1
                if on_files:
                    on_files(done, len(files))
    if refused:
        more = f" and {'at least ' if done < len(files) else ''}{len(refused) - _NAMED} more"
        raise InputError(
            f"{', '.join(refused[:_NAMED])}{more if len(refused) > _NAMED else ''} cannot be read; {advice}."
        )
