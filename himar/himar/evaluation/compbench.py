"""Writes the images of T2I-CompBench (arXiv 2307.06350) as its own scripts read them: the prompt in each file's name.

The scripts take the prompt from the name up to its first "_" and sort by the number behind the last one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from himar_kernels import InputError
from himar_kernels.shared.files import new_folder

from .samples import SampleRun, read_parts, require_whole

PER_PROMPT = 10
"""Images of a prompt in papers."""
_LONGEST_NAME = 255
"""Bytes of a file's name that common file systems take."""


def picture_names(prompts: Sequence[str], per_prompt: int, source: Path) -> list[str]:
    """Return the files' names, `per_prompt` of each prompt in turn, numbered through: PROMPT_000000.png.

    source: where the prompts are from, for errors. Raises InputError, naming the prompt, where a file can't be named
    after it, or its scripts would read another prompt from the name.
    """
    for place, prompt in enumerate(prompts, 1):
        which = f"prompt {place} of {source}, {prompt!r:.60},"
        for sign, why in (
            ("/", "which no file's name can hold"),
            ("\0", "which no file's name can hold"),
            ("_", "before which T2I-CompBench's scripts end the prompt"),
        ):
            if sign in prompt:
                raise InputError(f"{which} holds {sign!r}, {why}; write it without.")
        length = len(os.fsencode(_name(prompt, len(prompts) * per_prompt - 1)))
        if length > _LONGEST_NAME:
            raise InputError(
                f"{which} makes a file name of {length} bytes, and {_LONGEST_NAME} is the most; shorten it."
            )
    return [_name(prompt, place * per_prompt + i) for place, prompt in enumerate(prompts) for i in range(per_prompt)]


def merge_pictures(run: SampleRun, folder: Path, names: Sequence[str], out: Path) -> None:
    """Write all parts of a run as PNG files of these names into the new folder `out`, then delete the parts.

    Raises InputError when parts are missing, or `out` is there already or cannot be written.
    """
    from PIL import Image

    require_whole(run, folder)
    with new_folder(out) as unfinished:
        left = iter(names)
        for images in read_parts(run, folder):
            for image in images:
                Image.fromarray(image).save(unfinished / next(left), format="PNG")
    shutil.rmtree(folder, ignore_errors=True)


def _name(prompt: str, number: int) -> str:
    return f"{prompt}_{number:06d}.png"
