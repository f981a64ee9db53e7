"""Says how long a call of the engines takes by its number of images: measured, read from a file, or estimated."""

from __future__ import annotations

import json
import math
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from himar_kernels import InputError
from himar_kernels.shared.files import write_text
from himar_runtime import Pipeline

from ..bench.measurement import ENGINES
from ..cost.cost import Peaks
from ..cost.run import CostRequest, request_costs

MOST_LANES = 64
"""--lanes of himar-serve."""
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class CallSeconds:
    """Seconds of a call by its images, with `lanes` of them at once on a device.

    Between two numbers of images it is interpolated linearly; beyond the largest, calls of that many follow each other.

    Attributes:
        lanes: calls that run at once.
        seconds: by number of images, which 1 is among.
    """

    lanes: int
    seconds: Mapping[int, float]

    def of(self, images: int) -> float:
        """Return the seconds of a call of so many images."""
        sizes = sorted(self.seconds)
        whole, rest = divmod(images, sizes[-1])
        if rest == 0:
            return whole * self.seconds[sizes[-1]]
        above = sizes[bisect_left(sizes, rest)]
        below = max((size for size in sizes if size < above), default=above)
        share = 0.0 if above == below else (rest - below) / (above - below)
        inside = self.seconds[below] + share * (self.seconds[above] - self.seconds[below])
        return whole * self.seconds[sizes[-1]] + inside

    def most_per_second(self, max_batch: int) -> float:
        """Return the images per second of a device whose calls all have the best number of images."""
        sizes = {min(size, max_batch) for size in self.seconds} | {max_batch}
        return max(self.lanes * size / self.of(size) for size in sizes)


def measured(
    pipeline: Pipeline,
    lanes: Sequence[int],
    max_batch: int,
    sampling: Any,
    repeats: int,
    progress: Callable[[str, float], None] = lambda text, fraction: None,
) -> list[CallSeconds]:
    """Measure calls of 1, 2, 4 … max_batch images, on each number of lanes at once.

    Args:
        pipeline: one lane; its clones are the others.
        sampling: settings of the calls.
        repeats: calls of each lane and size, of which the median counts; each size is warmed up by one.
        progress: told of each call, and the images made of all that there are to make.
    """
    sizes = [size for size in _BATCHES if size < max_batch] + [max_batch]
    images, made = (1 + repeats) * sum(lanes) * sum(sizes), 0

    def seconds(pipelines: Sequence[Pipeline], size: int) -> float:
        count = len(pipelines)
        text = f"calls of {size} image{'s' * (size > 1)}" + f", {count} at once" * (count > 1)

        def on_call() -> None:
            nonlocal made
            made += count * size
            progress(text, made / images)

        progress(text, made / images)
        return measure(pipelines, size, sampling, repeats, on_call)

    found = []
    for count in lanes:
        pipelines = [pipeline, *(pipeline.clone() for _ in range(count - 1))]
        found.append(CallSeconds(count, {size: seconds(pipelines, size) for size in sizes}))
    return found


def measure(
    pipelines: Sequence[Pipeline], images: int, sampling: Any, repeats: int, on_call: Callable[[], None] = lambda: None
) -> float:
    """Return the median seconds of a call while as many run as there are lanes. Raises what a call raises.

    on_call: called after each call of the first lane, in its thread.
    """
    seconds: list[float] = []
    failures: list[Exception] = []
    barrier = threading.Barrier(len(pipelines))

    def lane(pipeline: Pipeline) -> None:
        try:
            calls(pipeline)
        except threading.BrokenBarrierError:
            pass  # another lane has failed
        except Exception as error:
            failures.append(error)
            barrier.abort()  # or the others would wait for this one

    def calls(pipeline: Pipeline) -> None:
        what = _what(pipeline, images)
        called = on_call if pipeline is pipelines[0] else lambda: None
        pipeline.generate(**what, sampling=sampling)
        called()
        for repeat in range(repeats):
            barrier.wait()
            start = time.perf_counter()
            pipeline.generate(**what, seed=repeat, sampling=sampling)
            seconds.append(time.perf_counter() - start)
            called()

    # Daemons, so that a measurement that is interrupted ends the process.
    threads = [threading.Thread(target=lane, args=(each,), daemon=True) for each in pipelines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sorted(seconds)[len(seconds) // 2]


def _what(pipeline: Pipeline, images: int) -> dict[str, Any]:
    model = pipeline.bundle.manifest.model
    if model.context_shape is None:
        return {"labels": [place % model.classes for place in range(images)]}
    return {"prompts": [f"image {place}" for place in range(images)]}


def estimated(request: CostRequest, peaks: Peaks, share: float, max_batch: int) -> CallSeconds:
    """Estimate calls from the cost model: the roofline's bound over the share of it that engines reach.

    Args:
        request: of one image.
        share: of the roofline, as `himar-export bench` reports it; 1 is the bound itself.

    Raises InputError for a device on which a call would take no time, or endlessly long.
    """
    sizes = [size for size in _BATCHES if size < max_batch] + [max_batch]
    seconds = {
        size: sum(cost.bound_seconds for cost in request_costs(replace(request, batch=size), peaks)) / share
        for size in sizes
    }
    for size, each in seconds.items():
        if not 0 < each < math.inf:
            raise InputError(
                f"a call of {size} images would take {each:g} s on this device; give its --peak-tflops, its "
                f"--peak-gbps and the --share that bench prints."
            )
    return CallSeconds(1, seconds)


def read_seconds(path: Path) -> list[CallSeconds]:
    """Read --device-seconds: what `write_seconds` wrote, or the JSON of `himar-export bench --json`.

    Raises InputError for a file that is neither.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not JSON ({error}); give a file of plan --measure --save, or of bench --json."
        ) from error
    try:
        if "generations" in values:
            engines = {
                int(each["batch"]): float(each["times"][ENGINES]["summary"]["median"])
                for each in values["generations"] if each["times"].get(ENGINES)
            }  # fmt: skip
            found = [CallSeconds(1, engines)]
        else:
            found = [
                CallSeconds(int(lanes), {int(images): float(seconds) for images, seconds in table.items()})
                for lanes, table in values["lanes"].items()
            ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path} holds no seconds of calls by their images; give a file of plan --measure --save, or of bench "
            f"--json."
        ) from error
    if not found:
        raise InputError(f"{path} holds the times of no lanes; measure again with plan --measure --save.")
    for each in found:
        _check(each, path)
    return found


def _check(found: CallSeconds, path: Path) -> None:
    """Raise InputError for times that cannot be, or of more lanes than a service has."""
    if found.lanes > MOST_LANES:
        raise InputError(f"{path} has times of {found.lanes} lanes; himar-serve has at most {MOST_LANES}.")
    for images, seconds in found.seconds.items():
        if found.lanes < 1 or images < 1 or not (math.isfinite(seconds) and seconds > 0):
            raise InputError(
                f"{path} says that a call of {images} images on {found.lanes} lanes takes {seconds:g} s; give positive "
                f"numbers."
            )
    if 1 not in found.seconds:
        raise InputError(f"{path} lacks the seconds of a call of 1 image; measure it too (bench --batch 1).")


def write_seconds(found: Sequence[CallSeconds], path: Path) -> None:
    """Write times as --device-seconds reads them. Raises InputError when the file cannot be written."""
    values = {"lanes": {str(each.lanes): {str(size): value for size, value in each.seconds.items()} for each in found}}
    write_text(path, json.dumps(values, indent=1) + "\n")
