"""Runs by itself: `python -m himar_export.memory.child BUNDLE` prints what each engine takes on a CPU, as JSON.

Every figure is of a process of its own, forked from one that holds the libraries and no engine, so that what one
engine leaves behind hides nothing of the next. There another engine runs first, which pays what is paid once. An
engine runs twice at the largest sizes of all axes but the batch: ONNX Runtime plans its memory in the first run and
takes the planned block in the second, beside what the first took.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_runtime import Bundle, ComponentSpec, Device
from himar_runtime.engines.engine import Engine
from himar_runtime.engines.networks import load_engine
from himar_runtime.engines.ort.packed import VARIABLE
from himar_runtime.engines.ort.session import onnxruntime

CPU = Device("cpu")
FEW, MORE = 1, 4
"""Images of the runs that are measured: a straight line goes through them."""
LARGE = 1 << 28
"""Bytes of weights from which MORE is 2, so that a build does not wait long."""


def measure(bundle: Bundle) -> dict[str, Any]:
    """Return the manifest's key `memory`."""
    return {
        "by": f"onnxruntime {onnxruntime().__version__} on cpu",
        "components": {name: component(bundle, spec) for name, spec in bundle.manifest.components.items()},
    }


def component(bundle: Bundle, spec: ComponentSpec) -> dict[str, Any]:
    """Return what one engine takes."""
    most = bundle.manifest.max_batch
    images = sorted({FEW, min(most, 2 if (spec.weight_bytes or 0) > LARGE else MORE)})
    found = [forked(functools.partial(alone, bundle, spec, each), described(spec, each)) for each in images]
    return entry(spec, most, images, found[0][0], [run for _, run in found])


def described(spec: ComponentSpec, images: int) -> str:
    """Return what is measured, for a sentence."""
    return f"{spec.name} with {images} images"


def entry(spec: ComponentSpec, most: int, images: Sequence[int], loaded: int, runs: Sequence[int]) -> dict[str, Any]:
    """Return a component's figures as the manifest has them; more images never take less.

    most: the bundle's largest batch. runs: bytes of runs of each number of images.
    """
    return {
        "loaded": loaded,
        "images": list(images),
        "runs": [max(runs[: place + 1]) for place in range(len(runs))],
        "most": max(images[-1], largest_call(spec, most)),
    }


def largest_call(spec: ComponentSpec, most: int) -> int:
    """Return the images of the largest run, of a bundle whose largest batch is `most`."""
    axis = batch_axis(spec)
    return most if axis is None else min(most, spec.profile[axis][2] // per_image(spec, most))


def batch_axis(spec: ComponentSpec) -> str | None:
    """Return the axis that grows with the batch: the first of the outputs."""
    first = spec.outputs[0].shape[0] if spec.outputs[0].shape else 1
    return first if isinstance(first, str) else None


def per_image(spec: ComponentSpec, most: int) -> int:
    """Return how much of that axis an image takes, of a bundle whose largest batch is `most`."""
    axis = batch_axis(spec)
    return 1 if axis is None else max(1, spec.profile[axis][2] // most)


def axes(spec: ComponentSpec, most: int, images: int) -> dict[str, int]:
    """Return the sizes of a run of so many images, everything else at its largest."""
    sizes = {name: largest for name, (_, _, largest) in spec.profile.items()}
    axis = batch_axis(spec)
    if axis is not None:
        sizes[axis] = min(sizes[axis], images * per_image(spec, most))
    return sizes


def forked(task: Callable[[], Any], what: str) -> Any:
    """Return what a task gives in a process of its own, as JSON keeps it; OSError, naming `what`, if it fails."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            os.close(reading)
            os.write(writing, json.dumps(task()).encode())
            status = 0
        os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        text = stream.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise OSError(f"{what} could not be measured")
    return json.loads(text)


def alone(bundle: Bundle, spec: ComponentSpec, images: int) -> tuple[int, int]:
    """Return what an engine and its runs add to this process."""
    kept = [warmed(bundle)]
    before = resident()
    kept.append(load_engine(bundle, spec.name, CPU, None))
    loaded = resident()
    inputs = zeros(spec, axes(spec, bundle.manifest.max_batch, images))
    filled = sum(array.nbytes for array in inputs.values())  # a caller's own are written; zeros are not resident yet
    for _ in range(2):
        kept[-1].run_on_device(inputs)
    return max(0, loaded - before), max(0, resident() - loaded + filled)


def warmed(bundle: Bundle) -> Engine:
    """Return the bundle's smallest engine after a run at its smallest sizes: the libraries are at work then."""
    spec = min(bundle.manifest.components.values(), key=lambda each: each.weight_bytes or 0)
    engine = load_engine(bundle, spec.name, CPU, None)
    engine.run_on_device(zeros(spec, {name: least for name, (least, _, _) in spec.profile.items()}))
    return engine


def zeros(spec: ComponentSpec, sizes: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    """Return inputs of a run; sizes: of every dynamic axis."""
    shapes = {
        each.name: [sizes[size] if isinstance(size, str) else size for size in each.shape] for each in spec.inputs
    }
    return {each.name: np.zeros(shapes[each.name], each.dtype) for each in spec.inputs}


def resident() -> int:
    """Return the bytes of memory that this process holds now (Linux)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))


if __name__ == "__main__":
    os.environ.pop(VARIABLE, None)  # packed weights would be mapped, which a bundle elsewhere cannot count on
    sys.stdout.write(json.dumps(measure(Bundle.open(sys.argv[1]))) + "\n")
